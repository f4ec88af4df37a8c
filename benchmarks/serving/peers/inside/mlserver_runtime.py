"""MLServer's custom runtime around onnxruntime."""
# mypy: ignore-errors
# What it imports is installed beside it, not beside mypy.

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Autoencoder(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = self.settings.parameters.uri
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        wanted = [output.name for output in payload.outputs]
        rows = NumpyCodec.decode_input(payload.inputs[0])
        arrays = self.session.run(wanted, {"input": rows})
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(wanted, arrays, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
