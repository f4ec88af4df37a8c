// The wire's limit in C++: an asynchronous server that answers every unary call with the same bytes.
//   echo --answer-bytes N        prints its port
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>
#include <string>

struct Call {
  enum { kCalled, kRead, kAnswered } state = kCalled;
  grpc::GenericServerContext context;
  grpc::GenericServerAsyncReaderWriter stream{&context};
  grpc::ByteBuffer request;
};

int main(int count, char** arguments) {
  const std::string bytes(count > 2 ? std::stoul(arguments[2]) : 0, '\0');
  grpc::Slice slice(bytes);
  const grpc::ByteBuffer answer(&slice, 1);
  grpc::AsyncGenericService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterAsyncGenericService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  std::printf("%d\n", port);
  std::fflush(stdout);
  const auto take = [&] {
    auto* call = new Call;
    service.RequestCall(&call->context, &call->stream, queue.get(), queue.get(), call);
  };
  for (int i = 0; i < 512; ++i) take();
  void* tag;
  bool ok;
  while (queue->Next(&tag, &ok)) {
    auto* call = static_cast<Call*>(tag);
    if (!ok || call->state == Call::kAnswered) {
      delete call;
    } else if (call->state == Call::kCalled) {
      take();
      call->state = Call::kRead;
      call->stream.Read(&call->request, call);
    } else {
      call->state = Call::kAnswered;
      call->stream.WriteAndFinish(answer, grpc::WriteOptions(), grpc::Status::OK, call);
    }
  }
}
