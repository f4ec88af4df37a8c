// Embeds and scores two rows: node client.js MODEL [HOST:PORT]
const { join } = require("node:path");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const includeDirs = [join(__dirname, "../../../proto"), join(__dirname, "..")];
const files = ["hourglass/v1/autoencoder.proto", "errors.proto"];
const protos = loadSync(files, { includeDirs, keepCase: true, longs: Number });
const { Autoencoder } = grpc.loadPackageDefinition(protos).hourglass.v1;

const [model, server = "127.0.0.1:8001"] = process.argv.slice(2);
// TLS: grpc.credentials.createSsl(fs.readFileSync("ca.pem")). A token: metadata.set("authorization", `Bearer ${token}`).
const options = { "grpc.max_receive_message_length": 64 << 20 };
const client = new Autoencoder(server, grpc.credentials.createInsecure(), options);
const metadata = new grpc.Metadata();

function call(method, request) {
  const deadline = Date.now() + 30_000;
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// A failed call's reason and field.
function reason(error) {
  const [status] = error.metadata.get("grpc-status-details-bin");
  const details = status ? protos["google.rpc.Status"].deserialize(status).details : [];
  const any = details.find(({ type_url }) => type_url.endsWith("google.rpc.ErrorInfo"));
  if (!any) return error.message;
  const info = protos["google.rpc.ErrorInfo"].deserialize(any.value);
  return `${info.reason} ${info.metadata?.field ?? ""}: ${error.details}`;
}

async function main() {
  const { row_shape } = (await call("GetModel", { model })).model;
  const size = row_shape.reduce((a, b) => a * b, 1);
  const data = Buffer.alloc(2 * size * 4); // a row of zeros,
  for (let i = size; i < 2 * size; i++) data.writeFloatLE(1, 4 * i); // and a row of ones
  const rows = { model, tensor: { data_type: "DATA_TYPE_FLOAT32", shape: [2, ...row_shape], data } };
  const [embedded, scored] = await Promise.all([call("Embed", rows), call("Score", rows)]);

  const [n, width] = embedded.embedding.shape;
  console.log("embedding_space_id", embedded.model.embedding_space_id);
  console.log("embedding", n, width);
  for (let row = 0; row < n; row++) {
    const first = [];
    for (let i = 0; i < Math.min(3, width); i++) first.push(embedded.embedding.data.readFloatLE(4 * (row * width + i)));
    const score = scored.score.data.readFloatLE(4 * row);
    const verdict = scored.is_anomaly.data[row] ? "anomaly" : "normal";
    console.log(...first.map((number) => number.toFixed(4)), "score", score.toFixed(4), verdict);
  }
}

main()
  .catch((error) => {
    if (!error.metadata) throw error;
    console.error(reason(error));
    process.exitCode = 1;
  })
  .finally(() => client.close());
