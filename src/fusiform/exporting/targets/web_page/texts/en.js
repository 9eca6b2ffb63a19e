// What the page says, in English.

export const TEXTS = {
  title: "What does the photograph show?",
  choose: "Choose a photograph",
  drop: "or drop or paste one here",
  loading: (name, share) => (share === null ? "Loading the model ..." : `Loading ${name}: ${share} %`),
  ready: "Ready.",
  looking: (name) => `${name} ...`,
  pasted: "The pasted picture",
  classified: (name, label, percent) => `${name}: ${label}, ${percent}`,
  detected: (name, count) => `${name}: ${count === 1 ? "1 object" : `${count === 0 ? "no" : count} objects`}`,
  segmented: (name, count) => `${name}: ${count === 1 ? "1 class" : `${count} classes`}`,
  undecodable: (name, reason) => `${name}: this browser cannot decode it (${reason}). Try a JPEG or a PNG.`,
  failed: (name, reason) => `${name}: ${reason}`,
  // What the picture and its table are: for those who do not see it, above the table, over its columns.
  tasks: {
    classification: {
      seen: "The part of the photograph that the network sees",
      caption: "The likeliest classes",
      label: "Class",
      value: "Probability",
    },
    detection: {
      seen: "The photograph with the objects in boxes",
      caption: "The objects",
      label: "Class",
      value: "Confidence score",
    },
    segmentation: {
      seen: "The photograph, tinted by the classes of its pixels",
      caption: "The classes",
      label: "Class",
      value: "Share of the pixels",
    },
  },
  times: ({ decode, prepare, network }) => `${decode} ms to decode, ${prepare} ms to resize, ${network} ms in the network`,
  about: (model, classes) => `${model}: ${classes} classes. The photograph stays on this device.`,
};
