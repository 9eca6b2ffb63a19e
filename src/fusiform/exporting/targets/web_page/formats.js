// What a picture's file says of itself, by which all browsers read it as Python does: left alone, they show what there is
// of a file that is cut short, turn the files of some formats and not of others, and follow different notes of colour.
// Nothing here touches the page: bytes in, what they say out.

const MOST_PIXELS = 217_000_000; // as in Python, where a pixel takes 4 of 870 million bytes
const LONGEST_PROFILE = 1 << 20;

// The first bytes of each format, as Latin letters; the kinds without a reader are known by name alone.
const FORMATS = [
  ["JPEG", /^\xff\xd8\xff/, readJpeg],
  ["PNG", /^\x89PNG\r\n\x1a\n/, readPng],
  ["GIF", /^GIF8[79]a/, readGif],
  ["WebP", /^RIFF.{4}WEBP/s, readWebp],
  ["BMP", /^BM/, readBmp],
  ["AVIF", /^.{4}ftypavi[fs]/s],
  ["HEIC", /^.{4}ftyp(?:he[iv][cmsx]|m[is]f1)/s],
  ["TIFF", /^(?:II[*+]\0|MM\0[*+])/],
  ["JPEG 2000", /^(?:\xff\x4f\xff\x51|\0\0\0\x0cjP {2}\r\n\x87\n)/],
  ["JPEG XL", /^(?:\xff\x0a|\0\0\0\x0cJXL )/],
  ["PPM", /^P[1-6f]\s/],
  ["SVG", /^(?:\xef\xbb\xbf)?\s*<(?:\?xml|svg|!--)/],
  ["PDF", /^%PDF-/],
  ["ICO", /^\0\0\x01\0/],
];

// { format, whole, orientation, profile, width, height } of a file's bytes: `format` null where nothing is known of it,
// `whole` false where it is cut short, `orientation` 1 to 8 as EXIF counts, of formats that some browsers do not turn,
// and with it `upright`, the same file without that note; `profile` whether its colours are those of another RGB space,
// undefined where the browser is to decide; `width` and `height` in pixels, 0 where they are not known.
export async function readFormat(bytes) {
  const head = latin(bytes, 0, 256);
  const [format, , read] = FORMATS.find(([, start]) => start.test(head)) ?? [null];
  const found = { format, whole: true, orientation: 1, upright: [bytes], profile: undefined, width: 0, height: 0 };
  const said = read ? readWithin(read, bytes) : {};
  if (said.profile instanceof Uint8Array) {
    said.profile = isForeign(said.deflated ? await inflate(said.profile) : said.profile);
  }
  return { ...found, ...said };
}

function readWithin(read, bytes) {
  try {
    return read(bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch (error) {
    if (error instanceof RangeError) return { whole: false }; // what it says lies behind its end
    throw error;
  }
}

// Whether so many pixels are more than any photograph has: they would take the memory of the whole device.
export function isTooLarge({ width, height }) {
  return width * height > MOST_PIXELS;
}

function latin(bytes, from, to) {
  return String.fromCharCode(...bytes.subarray(from, to));
}

// Segments up to the first scan; a file that is whole has its end marker somewhere after that.
function readJpeg(bytes, view) {
  const said = { whole: false, profile: false };
  const pieces = [];
  let components = 0;
  let at = 2;
  while (at + 4 <= bytes.length) {
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker === 0xff) {
      at++; // what does not belong there, and what fills, is passed over, as by decoders
      continue;
    }
    if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd9)) {
      at += 2;
      continue;
    }
    if (marker === 0xda) break;
    const next = at + 2 + view.getUint16(at + 2);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker) && at + 10 <= bytes.length) {
      [said.height, said.width, components] = [view.getUint16(at + 5), view.getUint16(at + 7), bytes[at + 9]];
    }
    if (marker === 0xe2 && latin(bytes, at + 4, at + 16) === "ICC_PROFILE\0") {
      pieces.push({ number: bytes[at + 16], part: bytes.subarray(at + 18, next) });
    }
    at = next;
  }
  for (; at >= 0 && at < bytes.length && !said.whole; at = bytes.indexOf(0xff, at + 1)) {
    said.whole = bytes[at] === 0xff && bytes[at + 1] === 0xd9;
  }
  if (components === 3 && pieces.length > 0) {
    said.profile = joined(pieces.sort((a, b) => a.number - b.number).map(({ part }) => part));
  }
  return said;
}

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

// What PNG says of gamma and primaries without a profile is not followed: Python does not.
function readPng(bytes, view) {
  const said = { whole: false, profile: false };
  for (let at = 8; at + 12 <= bytes.length;) {
    const [start, end] = [at + 8, at + 8 + view.getUint32(at)];
    const type = latin(bytes, at + 4, start);
    if (end + 4 > bytes.length) break;
    if (type === "IHDR") [said.width, said.height] = [view.getUint32(start), view.getUint32(start + 4)];
    if (type === "iCCP" && [2, 3, 6].includes(bytes[25])) {
      const name = bytes.indexOf(0, start); // it ends in a zero, and the way of packing follows
      Object.assign(said, { profile: bytes.subarray(name + 2, end), deflated: true });
    }
    if (type === "eXIf") {
      said.orientation = findOrientation(bytes, view, start, end).value;
      said.upright = [bytes.subarray(0, at), bytes.subarray(end + 4)];
    }
    if (type === "IEND") {
      said.whole = true;
      break;
    }
    at = end + 4;
  }
  return said;
}

// Up to the end of its first picture, which is the one that counts.
function readGif(bytes, view) {
  const said = { whole: false, profile: false, width: view.getUint16(6, true), height: view.getUint16(8, true) };
  const palette = (flags) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let at = 13 + palette(bytes[10]);
  while (at < bytes.length) {
    const picture = bytes[at] === 0x2c;
    at += picture ? 11 + palette(bytes[at + 9]) : 2;
    while (at < bytes.length && bytes[at] > 0) at += 1 + bytes[at];
    if (picture) {
      said.whole = at < bytes.length;
      break;
    }
    at++;
  }
  return said;
}

function readWebp(bytes, view) {
  const end = Math.min(bytes.length, 8 + view.getUint32(4, true));
  const said = { whole: bytes.length >= 8 + view.getUint32(4, true), profile: false };
  for (let at = 12; at + 8 <= end;) {
    const length = view.getUint32(at + 4, true);
    const type = latin(bytes, at, at + 4);
    if (type === "ICCP") said.profile = bytes.subarray(at + 8, at + 8 + length);
    if (type === "EXIF") {
      const { value, place } = findOrientation(bytes, view, at + 8, Math.min(end, at + 8 + length));
      said.orientation = value;
      if (value > 1) said.upright = [bytes.subarray(0, place), new Uint8Array(2), bytes.subarray(place + 2)];
    }
    at += 8 + length + (length % 2);
  }
  return said;
}

function readBmp(bytes, view) {
  if (bytes.length < 34) return { whole: false };
  const [width, height] = [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
  if (view.getUint32(14, true) < 40) return {};
  const line = Math.ceil((width * view.getUint16(28, true)) / 32) * 4;
  const plain = [0, 3].includes(view.getUint32(30, true)); // not run by run
  return { whole: !plain || view.getUint32(10, true) + line * height <= bytes.length, profile: false, width, height };
}

// What EXIF says of how the picture was held, 1 where it says nothing, and where in the file it says so.
function findOrientation(bytes, view, start, end) {
  const nothing = { value: 1, place: -1 };
  const at = latin(bytes, start, start + 6) === "Exif\0\0" ? start + 6 : start;
  if (at + 8 > end) return nothing;
  const order = latin(bytes, at, at + 2);
  if (order !== "II" && order !== "MM") return nothing;
  const little = order === "II";
  const directory = at + view.getUint32(at + 4, little);
  if (directory + 2 > end) return nothing;
  const count = view.getUint16(directory, little);
  for (let entry = directory + 2, k = 0; k < count && entry + 12 <= end; entry += 12, k++) {
    if (view.getUint16(entry, little) !== 0x0112) continue;
    const value = view.getUint16(entry + 8, little);
    return value >= 1 && value <= 8 ? { value, place: entry + 8 } : nothing;
  }
  return nothing;
}

async function inflate(packed) {
  try {
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    return new Uint8Array(0); // a damaged profile takes nothing from the pixels
  }
}

// The sRGB primaries seen under D50, as profiles store them (IEC 61966-2-1, adapted as in ICC.1:2022 Annex E).
const SRGB_PRIMARIES = {
  rXYZ: [0.4361, 0.2225, 0.0139],
  gXYZ: [0.3851, 0.7169, 0.0971],
  bXYZ: [0.1431, 0.0606, 0.7139],
};

// Whether a profile is one of another RGB space than sRGB, judged by its primaries.
function isForeign(profile) {
  if (latin(profile, 16, 20) !== "RGB " || profile.length > LONGEST_PROFILE) return false;
  const view = new DataView(profile.buffer, profile.byteOffset, profile.byteLength);
  const tags = {};
  for (let k = 0, at = 132; k < (profile.length >= 132 ? view.getUint32(128) : 0) && at + 12 <= profile.length; k++) {
    tags[latin(profile, at, at + 4)] = view.getUint32(at + 4);
    at += 12;
  }
  return !Object.entries(SRGB_PRIMARIES).every(([tag, primary]) => primary.every((value, k) => {
    const at = tags[tag] + 8 + 4 * k;
    return at + 4 <= profile.length && Math.abs(view.getInt32(at) / 65536 - value) < 0.003;
  }));
}
