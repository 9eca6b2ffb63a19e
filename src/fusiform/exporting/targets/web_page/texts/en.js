// What the page says, in English.

export const TEXTS = {
  title: "What does the photograph show?",
  choose: "Choose a photograph",
  drop: "or drop or paste one here",
  loading: (name, share) => (share === null ? "Loading the model ..." : `Loading ${name}: ${share} %`),
  ready: "Ready.",
  looking: (name) => `${name} ...`,
  pasted: "The pasted picture",
  answered: (name, label, percent) => `${name}: ${label}, ${percent} %`,
  undecodable: (name, reason) => `${name}: this browser cannot decode it (${reason}). Try a JPEG or a PNG.`,
  failed: (name, reason) => `${name}: ${reason}`,
  cropped: "The part of the photograph that the network sees",
  guesses: "The likeliest classes",
  label: "Class",
  probability: "Probability",
  times: ({ decode, prepare, network }) => `${decode} ms to decode, ${prepare} ms to resize, ${network} ms in the network`,
  about: (model, classes) => `${model}: ${classes} classes. The photograph stays on this device.`,
};
