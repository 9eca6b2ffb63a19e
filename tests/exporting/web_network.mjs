// Runs the functions of web_page/network.js on what comes through standard input; `node web_network.mjs NETWORK_JS`.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { cropPixels, decode, normalize } = await import(pathToFileURL(process.argv[2]));
const answers = JSON.parse(readFileSync(0, "utf8")).map(({ picture, preprocess, values, spec, top }) => {
  if (values) return decode(Float32Array.from(values), spec, top);
  const data = new Uint8ClampedArray(Buffer.from(picture.data, "base64"));
  const pixels = cropPixels({ data, width: picture.width, height: picture.height }, preprocess);
  const normalized = new Uint8Array(normalize(pixels, preprocess).buffer);
  return [pixels, normalized].map((bytes) => Buffer.from(bytes).toString("base64"));
});
process.stdout.write(JSON.stringify(answers));
