// A file or a frame as pixels: sRGB, upright, over white, as in Python. It is read in strips, because browsers bound the
// area of a canvas, Safari to 16 megapixels, which a telephone's photograph exceeds. Runs in a worker.

import { isTooLarge, readFormat } from "./formats.js";

const STRIP_PIXELS = 1 << 20;
const EVERYWHERE = ["JPEG", "PNG", "GIF", "WebP", "BMP"]; // browsers decode these

// An error that says what is wrong with a file; the page says it in its own language by the `reason`.
function refuse(reason, text) {
  return Object.assign(new Error(text), { reason });
}

// An ImageBitmap of a file (a Blob); a bitmap or a video's frame is taken as it is. Throws for a file that Python refuses,
// too, and for one of a format that this browser does not decode, whose name is the message then.
export async function decodePicture(source) {
  if (!(source instanceof Blob)) return source;
  let bytes;
  try {
    bytes = new Uint8Array(await source.arrayBuffer());
  } catch {
    throw refuse("unreadable", "cannot be read: choose a file that is there, and no folder");
  }
  if (bytes.length === 0) throw refuse("empty", "is empty (0 bytes): copy or download it again");
  const found = await readFormat(bytes);
  if (!found.format) throw refuse("notPicture", "is not a picture");
  if (!found.whole) throw refuse("cutShort", "is cut short: copy or download it again");
  if (isTooLarge(found)) {
    throw refuse("tooLarge", `is ${found.width} x ${found.height} pixels, too many to decode: make the picture smaller`);
  }
  const held = found.orientation > 1;
  const colorSpaceConversion = found.profile === false ? "none" : "default";
  try {
    const file = held ? new Blob(found.upright) : source;
    const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion });
    return held ? await turn(bitmap, found.orientation) : bitmap;
  } catch {
    if (EVERYWHERE.includes(found.format)) throw refuse("damaged", "is damaged: copy or download it again");
    throw refuse("undecodable", found.format);
  }
}

// The picture as it was held, by what EXIF says of it (Exif 2.32, 4.6.4 A); not on a canvas, whose area is bounded.
async function turn(bitmap, orientation) {
  const { width, height } = bitmap;
  const sideways = orientation >= 5;
  const image = new ImageData(sideways ? height : width, sideways ? width : height);
  const made = new Uint32Array(image.data.buffer);
  // Where the picture's first pixel goes, and how far it is from there to the next one across and down.
  const [right, bottom] = [image.width - 1, (image.height - 1) * image.width];
  const [first, across, down] = {
    2: [right, -1, image.width],
    3: [right + bottom, -1, -image.width],
    4: [bottom, 1, -image.width],
    5: [0, image.width, 1],
    6: [right, image.width, -1],
    7: [right + bottom, -image.width, -1],
    8: [bottom, -image.width, 1],
  }[orientation];
  readStrips(bitmap, { left: 0, top: 0, width, height }, (strip, top) => {
    const pixels = new Uint32Array(strip.data.buffer);
    for (let row = 0, from = 0; row < strip.height; row++) {
      for (let k = 0, at = first + (top + row) * down; k < width; k++, at += across) made[at] = pixels[from++];
    }
  });
  bitmap.close();
  return createImageBitmap(image);
}

// Gives `take(image, top)` the pixels of `region` strip after strip: `image` as a canvas gives it, as wide as the region;
// `top` is the picture's row that it starts with.
export function readStrips(bitmap, region, take) {
  const rows = Math.max(1, Math.min(region.height, Math.floor(STRIP_PIXELS / region.width)));
  const canvas = new OffscreenCanvas(region.width, rows);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.fillStyle = "white";
  for (let top = region.top; top < region.top + region.height; top += rows) {
    const height = Math.min(rows, region.top + region.height - top);
    context.fillRect(0, 0, region.width, height);
    context.drawImage(bitmap, region.left, top, region.width, height, 0, 0, region.width, height);
    take(context.getImageData(0, 0, region.width, height), top);
  }
}

// The size of a picture of { width, height } that is at most so many pixels long.
export function fitWithin({ width, height }, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

// The whole picture of a size for the page to draw on, at most so many pixels long: a bitmap, over white.
export async function makePreview(bitmap, size, longest = 1600) {
  const { width, height } = fitWithin(size, longest);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.transferToImageBitmap();
}
