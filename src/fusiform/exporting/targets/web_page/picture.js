// A file or a frame as pixels: sRGB, upright, over white, as in Python. It is read in strips, because browsers bound the
// area of a canvas, Safari to 16 megapixels, which a telephone's photograph exceeds. Runs in a worker.

const STRIP_PIXELS = 1 << 20;

// An ImageBitmap of a file (a Blob); a bitmap or a video's frame is taken as it is.
export async function decodePicture(source) {
  return source instanceof Blob ? createImageBitmap(source, { imageOrientation: "from-image" }) : source;
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
