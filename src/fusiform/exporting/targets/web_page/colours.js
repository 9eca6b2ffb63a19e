// The colour of each class, the same as in Python's pictures (drawing/overlay.py) and far from those of other low
// indices.

const COLOURS = 128; // classes that have colours of their own; the next one begins again

// What a mask or a line has to be to be seen on a photograph: neither dark nor pale, and no grey (OKLab).
const LIGHTNESS = [0.5, 0.9];
const CHROMA = 0.12;

let known = null;

// [red, green, blue], 0 to 255, of the class at an index.
export function colourOf(index) {
  known ??= makeColours();
  return known[index % COLOURS];
}

// The same for a style.
export function cssColour(index) {
  return `#${colourOf(index).map((level) => level.toString(16).padStart(2, "0")).join("")}`;
}

// Black or white, whichever stands out more on a colour.
export function readableOn(colour) {
  return oklab(colour)[0] > 0.65 ? "black" : "white";
}

// Colours each of which is as far from those before it as it can be, as the eye sees it.
function makeColours() {
  const levels = Array.from({ length: 18 }, (_, k) => 15 * k);
  const candidates = levels
    .flatMap((red) => levels.flatMap((green) => levels.map((blue) => [red, green, blue])))
    .map((rgb) => ({ rgb, place: oklab(rgb), distance: Infinity }))
    .filter(({ place: [light, a, b] }) => (
      light >= LIGHTNESS[0] && light <= LIGHTNESS[1] && Math.hypot(a, b) >= CHROMA
    ));
  // An orange first, which is rare in photographs.
  let last = candidates.reduce((a, b) => (squared(b.rgb, [255, 90, 0]) < squared(a.rgb, [255, 90, 0]) ? b : a));
  const chosen = [last.rgb];
  while (chosen.length < COLOURS) {
    for (const each of candidates) each.distance = Math.min(each.distance, squared(each.place, last.place));
    last = candidates.reduce((a, b) => (b.distance > a.distance ? b : a));
    chosen.push(last.rgb);
  }
  return chosen;
}

function squared(a, b) {
  return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2;
}

// A colour of sRGB in OKLab (Ottosson, 2020), where distances are about those that people see.
function oklab(rgb) {
  const [r, g, b] = rgb.map((level) => {
    const value = level / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s,
  ];
}
