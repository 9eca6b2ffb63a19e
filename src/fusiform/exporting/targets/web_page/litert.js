// The network, in LiteRT.js: the one file that knows the runtime. Made for a classic worker: the runtime's glue is loaded
// by importScripts, which module workers do not have.

const FOLDER = "runtime/";

// What was gzipped in the folder, as it comes: some servers unpack it on the way, others do not.
async function unpacked(response) {
  const reader = response.body.getReader();
  const first = await reader.read();
  const stream = new ReadableStream({
    start: (controller) => { if (!first.done) controller.enqueue(first.value); },
    pull: async (controller) => {
      const { done, value } = await reader.read();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
  const gzipped = first.value?.[0] === 0x1f && first.value[1] === 0x8b;
  return gzipped ? stream.pipeThrough(new DecompressionStream("gzip")) : stream;
}

// Loads the runtime; `get` fetches a file of this folder, and throws a sentence where it cannot. The answer is a function
// that makes of a .tflite file's bytes another: from one input's values and shape to the list of the answers' values.
export async function loadRuntime(get) {
  const { Tensor, loadAndCompile, loadLiteRt, supportsFeature } = await import(`./${FOLDER}index.js`);
  // Safari has no relaxed SIMD: the other build is for it, and alone in a page that is one file.
  const relaxed = !self.inOneFile && (await supportsFeature("relaxedSimd"));
  const build = relaxed ? "litert_wasm_internal" : "litert_wasm_compat_internal";
  const packed = await get(`${FOLDER}${build}.wasm.gz`);
  const wasm = new Response(await unpacked(packed), { headers: { "content-type": "application/wasm" } });
  const module = await WebAssembly.compileStreaming(wasm);
  self.Module = {
    locateFile: (name) => FOLDER + name,
    instantiateWasm: (imports, done) => {
      WebAssembly.instantiate(module, imports).then((instance) => done(instance, module));
    },
    print() {}, // it tells of its delegates on the console, as errors
    printErr() {},
  };
  // The runtime asks for a GPU whether or not it is to be used, and warns where there is none. Its answers for int8 on
  // one are wrong by nearly a logit.
  const noGPU = { limits: {}, features: new Set(), requestDevice: async () => null };
  Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => noGPU }, configurable: true });
  await loadLiteRt(`${FOLDER}${build}.js`);
  return async (bytes) => {
    const network = await loadAndCompile(bytes, { accelerator: "wasm" });
    return async (values, shape) => {
      const input = new Tensor(values, shape);
      const outputs = await network.run(input);
      const answers = await Promise.all(outputs.map((output) => output.data()));
      for (const tensor of [input, ...outputs]) tensor.delete();
      return answers;
    };
  };
}
