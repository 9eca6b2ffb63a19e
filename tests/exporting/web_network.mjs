// Runs the functions of web_page/network.js on what comes through standard input; `node web_network.mjs NETWORK_JS`.
// A picture is taken in strips of `rows`.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { startCrop } = await import(pathToFileURL(process.argv[2]));
const answers = JSON.parse(readFileSync(0, "utf8")).map(({ picture, preprocess, rows }) => {
  const data = Buffer.from(picture.data, "base64");
  const { region, take, finish } = startCrop(picture.width, picture.height, preprocess);
  for (let from = region.top; from < region.top + region.height; from += rows) {
    const height = Math.min(rows, region.top + region.height - from);
    const strip = new Uint8ClampedArray(4 * region.width * height);
    for (let j = 0; j < height; j++) {
      const at = ((from + j) * picture.width + region.left) * 4;
      strip.set(data.subarray(at, at + region.width * 4), j * region.width * 4);
    }
    take({ data: strip, width: region.width, height }, from);
  }
  return Buffer.from(finish()).toString("base64");
});
process.stdout.write(JSON.stringify(answers));
