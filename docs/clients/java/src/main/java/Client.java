import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import hourglass.v1.AutoencoderGrpc;
import hourglass.v1.AutoencoderGrpc.AutoencoderBlockingStub;
import hourglass.v1.AutoencoderOuterClass.*;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.TimeUnit;

/** Embeds and scores two rows: Client MODEL [HOST:PORT] */
public class Client {
  public static void main(String[] arguments) throws InvalidProtocolBufferException {
    String model = arguments[0], server = arguments.length > 1 ? arguments[1] : "127.0.0.1:8001";
    // TLS: TlsChannelCredentials.newBuilder().trustManager(new File("ca.pem")).build() in place of insecure. A token:
    // stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers)), "authorization" being "Bearer " + token.
    ManagedChannel channel = Grpc.newChannelBuilder(server, InsecureChannelCredentials.create())
        .maxInboundMessageSize(64 << 20).build();
    try {
      print(AutoencoderGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS), model);
    } catch (StatusRuntimeException failed) {
      System.err.println(reason(failed));
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  static void print(AutoencoderBlockingStub stub, String model) {
    List<Long> rowShape =
        stub.getModel(GetModelRequest.newBuilder().setModel(model).build()).getModel().getRowShapeList();
    Tensor rows = zerosAndOnes(rowShape);
    EmbedResponse embedded = stub.embed(EmbedRequest.newBuilder().setModel(model).setTensor(rows).build());
    ScoreResponse scored = stub.score(ScoreRequest.newBuilder().setModel(model).setTensor(rows).build());

    int n = (int) embedded.getEmbedding().getShape(0), width = (int) embedded.getEmbedding().getShape(1);
    System.out.println("embedding_space_id " + embedded.getModel().getEmbeddingSpaceId());
    System.out.println("embedding " + n + " " + width);
    FloatBuffer embeddings = floats(embedded.getEmbedding()), scores = floats(scored.getScore());
    for (int row = 0; row < n; row++) {
      for (int i = 0; i < Math.min(3, width); i++) {
        System.out.printf(Locale.ROOT, "%.4f ", embeddings.get(row * width + i));
      }
      String verdict = scored.getIsAnomaly().getData().byteAt(row) != 0 ? "anomaly" : "normal";
      System.out.printf(Locale.ROOT, "score %.4f %s%n", scores.get(row), verdict);
    }
  }

  /** A row of zeros, and a row of ones. */
  static Tensor zerosAndOnes(List<Long> rowShape) {
    int size = rowShape.stream().mapToInt(Long::intValue).reduce(1, Math::multiplyExact);
    ByteBuffer data = ByteBuffer.allocate(2 * size * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    for (int i = size; i < 2 * size; i++) {
      data.putFloat(i * Float.BYTES, 1);
    }
    return Tensor.newBuilder().setDataType(DataType.DATA_TYPE_FLOAT32).addShape(2).addAllShape(rowShape)
        .setData(ByteString.copyFrom(data)).build();
  }

  static FloatBuffer floats(Tensor tensor) {
    return tensor.getData().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
  }

  /** A failed call's reason and field. */
  static String reason(StatusRuntimeException failed) throws InvalidProtocolBufferException {
    com.google.rpc.Status status = StatusProto.fromThrowable(failed);
    for (Any detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        return info.getReason() + " " + info.getMetadataOrDefault("field", "") + ": " + status.getMessage();
      }
    }
    return failed.getMessage();
  }
}
