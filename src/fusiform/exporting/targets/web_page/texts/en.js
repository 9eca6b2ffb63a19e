// What the page says, in English. Every language has the same keys; counts come with their text beside them, for the
// forms of words go by them.

const objects = (count, text) => (count === 0 ? "no objects" : `${text} ${count === 1 ? "object" : "objects"}`);
const classes = (count, text) => `${text} ${count === 1 ? "class" : "classes"}`;
const sketch = "Sketch for the drift test";

export const TEXTS = {
  title: "What does the photograph show?",
  privacy: "Photographs stay on this device: nothing is sent anywhere.",
  choose: "Choose a photograph",
  another: "Choose another photograph",
  drop: "or drop or paste one here",
  samples: "Or try one of these",
  loading: "Loading the model ...",
  loadingBytes: (loaded, total) => `Loading the model: ${loaded} of ${total} MB ...`,
  ready: "Ready.",
  looking: (name) => `${name} ...`,
  pasted: "The pasted picture",
  classified: (name, label, percent) => `${name}: ${label}, ${percent}`,
  detected: (name, count, text) => `${name}: ${objects(count, text)}`,
  segmented: (name, count, text) => `${name}: ${classes(count, text)}`,
  objects,
  ofPicture: (percent) => `${percent} of the picture`,
  offline: "Offline: this page works from the copy on this device.",
  // What went wrong: with a file, on the way here, with the browser.
  undecodable: (name, reason) => `${name}: this browser cannot decode it (${reason}). Try a JPEG or a PNG.`,
  unreadable: (name) => `${name} cannot be read: choose a file that is there, and no folder.`,
  empty: (name) => `${name} is empty (0 bytes): copy or download it again.`,
  notPicture: (name) => `${name} is not a picture.`,
  cutShort: (name) => `${name} is cut short: copy or download it again.`,
  damaged: (name) => `${name} is damaged: copy or download it again.`,
  tooLarge: (name) => `${name} has too many pixels to decode: make the picture smaller.`,
  otherFile: (file) => `${file} comes incomplete or changed from the server: load the page again.`,
  unreachable: (file) => `${file} cannot be fetched: is this device offline? Load the page again when it is not.`,
  refused: (file, status) => `${file}: the server answers ${status}`,
  unsupported: "This browser is too old for this page: it needs Chrome 80, Firefox 114, Safari 16.4 or later.",
  failed: (name, reason) => `${name}: ${reason}`,
  // What the picture and its table are: for those who do not see it, above the table, over its columns, below it.
  tasks: {
    classification: {
      lead: (count, text) => `Tells which of ${classes(count, text)} a photograph shows.`,
      seen: "The photograph",
      caption: "The likeliest classes",
      label: "Class",
      value: "Probability",
      hint: "The network sees the bright part of the photograph.",
    },
    detection: {
      lead: (count, text) => `Finds objects of ${classes(count, text)} in a photograph and puts boxes around them.`,
      seen: "The photograph with the objects in boxes",
      caption: "The objects",
      label: "Class",
      value: "Confidence score",
      hint: "Choose an object to see its box alone.",
    },
    segmentation: {
      lead: (count, text) => `Tells which of ${classes(count, text)} each pixel of a photograph belongs to.`,
      seen: "The photograph, tinted by the classes of its pixels",
      caption: "The classes",
      label: "Class",
      value: "Share of the pixels",
      hint: "Choose a class to hide or show its colour.",
    },
  },
  // What a calibrated classifier promises: sure, unsure or unknown, and for which share of photographs.
  promise: {
    sure: (name) => `sure: ${name}`,
    unsure: (others, last) => `unsure: ${others} or ${last}`,
    comma: ", ",
    more: (text) => `one of ${text} more`,
    decided: { thresholds: (name) => `decided by thresholds: ${name}`, costs: (name) => `decided by costs: ${name}` },
    none: "no class",
    unknown: (name) => `unknown, nearest: ${name}`,
    known: (percent) => `Of photographs of these classes, ${percent} look at least as strange (p_known).`,
    label: "Right for",
    about: "of photographs like those that it was calibrated on: for so many the right class is among those named, and " +
      "so many are not called unknown.",
  },
  // The camera and videos.
  live: {
    start: "Camera",
    stop: "Stop",
    keep: "Keep this frame",
    turn: "Switch camera",
    starting: "Starting the camera ...",
    running: "The camera is on. What it shows stays on this device.",
    seen: {
      classification: "The answered frame; the network sees its bright part",
      detection: "The answered frame with the objects in boxes",
      segmentation: "The answered frame, tinted by the classes of its pixels",
    },
    rate: (frames) => `${frames} answered frames a second`,
    name: (time) => `Camera, ${time}`,
    insecure: "Browsers give the camera only to pages with an https address, and to those of localhost.",
    denied: "This page may not use the camera: allow it in the browser's settings, then start the camera again.",
    none: "No camera was found.",
    busy: "The camera cannot be started: another program may be using it.",
    ended: "The camera has stopped: it was disconnected, or its permission was withdrawn.",
    hidden: "The camera was switched off because the page was out of sight.",
    failed: (reason) => `The camera's picture cannot be answered (${reason}).`,
  },
  video: {
    opening: (name) => `${name} ...`,
    open: (name) => `${name}: play it, or seek a frame. It stays on this device.`,
    close: "Close the video",
    name: (name, time) => `${name}, ${time}`,
    undecodable: (name) => `${name}: this browser cannot play it. Try an MP4 (H.264) or a WebM.`,
    failed: (name, reason) => `${name}: ${reason}`,
  },
  times: (decode, prepare, network, finish) => (
    `${decode} to decode, ${prepare} to resize, ${network} in the network, ${finish} to finish`
  ),
  copy: "Copy as JSON",
  copied: "Copied.",
  notCopied: "This browser does not let the page copy.",
  save: "Save the picture",
  saving: "Drawing the picture ...",
  saved: (width, height) => `Saved: ${width} × ${height} pixels.`,
  notSaved: "This browser cannot draw the picture.",
  facts: {
    about: "About the model",
    task: "Task",
    input: "Input",
    accuracy: "Accuracy",
    size: "Size",
    runtime: "Runtime",
    licence: "Licence of the weights",
    runtimeLicence: "Licence of the runtime (Apache-2.0)",
    from: "Origin of the weights",
    classes: "Classes",
  },
  taskNames: { classification: "Classification", detection: "Object detection", segmentation: "Semantic segmentation" },
  pixels: (side) => `${side} × ${side} pixels`,
  measured: (top1, low, high, top5, dataset) => (
    `Top-1 ${top1} (95% interval ${low} to ${high}), top-5 ${top5}: ${dataset}`
  ),
  images: (count, text) => `${text} ${count === 1 ? "image" : "images"}`,
  filter: "Filter the classes",
  more: (text) => `and ${text} more`,
  // What is kept of the photographs, for `fusiform drift`.
  sketch: {
    title: sketch,
    on: (images) => `${sketch}: on, ${images}`,
    off: (images) => `${sketch}: off, ${images}`,
    images: (count, text) => `${text} ${count === 1 ? "photograph" : "photographs"}`,
    about: "Keeps some numbers of each photograph that you give this page: its brightness, contrast, sharpness, colours and " +
      "size, the class of the answer and how sure it is, and how strange the photograph is to the model. No photograph, " +
      "name or time is kept, and nothing is sent anywhere. From the saved file, fusiform drift tells whether photographs " +
      "are still like those that the model was calibrated on.",
    keep: "Keep a sketch of the photographs",
    stored: "The sketch stays in this browser, over reloads too, until you forget it.",
    inMemory: "This browser does not let the page store anything: the sketch is gone when the page is closed.",
    save: "Save the sketch",
    saved: (command) => `Saved. To test it: ${command}`,
    forget: "Forget the sketch",
    forgotten: "Forgotten: nothing of it is left.",
  },
  selfTest: {
    title: "Self-test",
    about: "Runs the inputs that were exported with the model, and compares the answers with those expected.",
    run: "Run the self-test",
    running: (done, all) => `${done} of ${all} ...`,
    caption: "The largest error of each answer",
    answer: "Answer",
    error: "Largest error",
    allowed: "Tolerance",
    result: "Result",
    pass: "passed",
    fail: "failed",
    passed: (count, text) => (
      `Passed: ${count === 1 ? "the answer to the input is" : `the answers to ${text} inputs are`} within the tolerance.`
    ),
    failed: (failed, all) => `Failed: the answers to ${failed} of ${all} inputs are beyond the tolerance.`,
    otherFile: "Failed: the expected answers are those of another model file. Export the page again.",
  },
};
