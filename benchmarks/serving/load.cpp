// The load generator: asynchronous unary gRPC calls of given bytes, from one thread that is never the bottleneck.
//   load HOST:PORT /package.Service/Method --request FILE [--request FILE ...] [--concurrency N | --rate R]
//        [--seconds S] [--warmup S] [--channels N] [--seed N]
// Closed loop: N calls are always under way. Open loop: calls begin at the times of a Poisson process of R calls a
// second, whether earlier ones are answered or not, and latency counts from the time a call was meant to begin.
// With several requests they take turns. Prints one JSON object; latencies are in microseconds.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

static Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

struct Call {
  grpc::ClientContext context;
  grpc::ByteBuffer answer;
  grpc::Status status;
  Time meant;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
};

struct Load {
  std::string method;
  std::vector<grpc::ByteBuffer> requests;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  grpc::CompletionQueue queue;
  Time from, until;  // calls that end in between are counted
  size_t begun = 0, under_way = 0, total = 0, errors = 0, answer_bytes = 0;
  std::string first_error;
  std::vector<double> latencies;

  void begin(Time meant) {
    auto* call = new Call;
    call->meant = meant;
    call->reader = stubs[begun % stubs.size()]->PrepareUnaryCall(&call->context, method,
                                                                 requests[begun % requests.size()], &queue);
    ++begun;
    ++under_way;
    call->reader->StartCall();
    call->reader->Finish(&call->answer, &call->status, call);
  }

  void end(Call* call) {
    const Time now = Clock::now();
    --under_way;
    ++total;
    if (!call->status.ok()) {
      ++errors;
      if (first_error.empty()) first_error = call->status.error_message();
    } else if (now >= from && now < until) {
      latencies.push_back(std::chrono::duration<double, std::micro>(now - call->meant).count());
      answer_bytes = call->answer.Length();
    }
    delete call;
  }

  void closed(size_t concurrency) {
    for (size_t i = 0; i < concurrency; ++i) begin(Clock::now());
    void* tag;
    bool ok;
    while (under_way && queue.Next(&tag, &ok)) {
      end(static_cast<Call*>(tag));
      if (Clock::now() < until) begin(Clock::now());
    }
  }

  void open(double rate, unsigned seed) {
    std::mt19937_64 random(seed);
    std::exponential_distribution<double> gap(rate);
    Time next = Clock::now();
    void* tag;
    bool ok;
    while (next < until || under_way) {
      for (; next < until && next <= Clock::now(); next += seconds(gap(random))) begin(next);
      // gRPC rounds deadlines up to milliseconds: the last one is waited for by looking again and again.
      const auto rest = next - Clock::now();
      const bool soon = next < until && rest < std::chrono::milliseconds(2);
      const auto deadline = std::chrono::system_clock::now() +
                            (soon ? std::chrono::system_clock::duration(0)
                                  : std::chrono::duration_cast<std::chrono::system_clock::duration>(
                                        next < until ? rest - std::chrono::milliseconds(1) : seconds(10)));
      if (queue.AsyncNext(&tag, &ok, deadline) == grpc::CompletionQueue::GOT_EVENT) end(static_cast<Call*>(tag));
    }
  }
};

static double percentile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * sorted.size()))];
}

int main(int count, char** arguments) {
  if (count < 3) return std::cerr << "load HOST:PORT METHOD --request FILE ...\n", 2;
  Load load;
  load.method = arguments[2];
  double duration = 3, warmup = 1, rate = 0;
  size_t concurrency = 1, channels = 1;
  unsigned seed = 0;
  for (int i = 3; i + 1 < count; i += 2) {
    const std::string flag = arguments[i], value = arguments[i + 1];
    if (flag == "--request") {
      std::ifstream file(value, std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
      grpc::Slice slice(bytes);
      load.requests.emplace_back(&slice, 1);
    } else if (flag == "--concurrency") {
      concurrency = std::stoul(value);
    } else if (flag == "--rate") {
      rate = std::stod(value);
    } else if (flag == "--seconds") {
      duration = std::stod(value);
    } else if (flag == "--warmup") {
      warmup = std::stod(value);
    } else if (flag == "--channels") {
      channels = std::stoul(value);
    } else if (flag == "--seed") {
      seed = std::stoul(value);
    } else {
      return std::cerr << "unknown flag " << flag << "\n", 2;
    }
  }
  if (load.requests.empty()) return std::cerr << "no --request\n", 2;
  for (size_t i = 0; i < channels; ++i) {
    grpc::ChannelArguments options;
    options.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection for each channel
    options.SetMaxReceiveMessageSize(-1);
    auto channel = grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), options);
    channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20));
    load.stubs.push_back(std::make_unique<grpc::GenericStub>(channel));
  }
  load.from = Clock::now() + seconds(warmup);
  load.until = load.from + seconds(duration);
  rate > 0 ? load.open(rate, seed) : load.closed(concurrency);

  auto& sorted = load.latencies;
  std::sort(sorted.begin(), sorted.end());
  load.first_error.erase(std::remove_if(load.first_error.begin(), load.first_error.end(),
                                        [](char c) { return c == '"' || c == '\\' || c < ' '; }),
                         load.first_error.end());
  std::printf(
      "{\"calls_per_second\": %.3f, \"calls\": %zu, \"all_calls\": %zu, \"errors\": %zu, \"first_error\": \"%s\", "
      "\"answer_bytes\": %zu, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f}\n",
      sorted.size() / duration, sorted.size(), load.total, load.errors, load.first_error.c_str(), load.answer_bytes,
      percentile(sorted, .5), percentile(sorted, .9), percentile(sorted, .99), percentile(sorted, .999));
}
