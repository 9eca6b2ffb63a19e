// A video file, played by the browser's own controls: the frames that it shows are answered, and those that are sought.

import { openView } from "./frame_view.js";
import { make } from "./page.js";

// Some systems do not know the types of some of them.
const NAMES = /\.(?:3gp|avi|m4v|mkv|mov|mp4|mpe?g|og[mv]|webm)$/i;

// A file, or something else that the page answers.
export function isVideo({ type, name }) {
  return type ? type.startsWith("video/") : NAMES.test(name ?? "");
}

// 83.25 seconds as "1:23.3".
export function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  return `${Math.floor(tenths / 600)}:${String(Math.floor((tenths % 600) / 10)).padStart(2, "0")}.${tenths % 10}`;
}

// The file in `container`, from `start` to `close`. `tell` says what goes on; `leave(sentence, { error })` is called
// where the browser cannot play it; `keep(frame, name)` gets the frame that the visitor keeps.
export function openVideo(container, model, file, { tell, leave, keep }) {
  const { live, video: texts } = model.texts;
  const address = URL.createObjectURL(file);
  const video = make("video", { controls: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
  video.setAttribute("aria-label", file.name);
  video.setAttribute("controlslist", "nofullscreen noremoteplayback");
  const keeping = make("button", { type: "button", textContent: live.keep });
  const closing = make("button", { type: "button", textContent: texts.close });
  const closed = new AbortController();
  const { signal } = closed;
  let view = null;
  const refuse = () => leave(texts.undecodable(file.name), { error: true });
  video.addEventListener("error", refuse, { signal });
  // Where the browser knows the sound alone, it plays that.
  video.addEventListener("loadedmetadata", () => { if (video.videoWidth === 0) refuse(); }, { signal });
  video.addEventListener("loadeddata", () => tell(texts.open(file.name)), { signal });
  keeping.addEventListener("click", () => {
    const { frame, time } = view.takeFrame();
    if (frame) keep(frame, texts.name(file.name, clock(time)));
  });
  closing.addEventListener("click", () => leave(""));
  return {
    start() {
      if (file.size === 0) { // browsers complain of it on the console
        refuse();
        return;
      }
      tell(texts.opening(file.name));
      const fail = (error) => leave(texts.failed(file.name, error.message), { error: true });
      view = openView(container, video, model, { buttons: [keeping, closing], fail });
      video.src = address;
    },
    close() {
      closed.abort();
      view?.close();
      video.removeAttribute("src");
      video.load(); // lets go of the file
      URL.revokeObjectURL(address);
    },
  };
}
