// The camera: what it shows is answered frame by frame, and stays on this device. It is on only while it is watched.

import { openView } from "./frame_view.js";
import { make } from "./page.js";

const SIZE = { width: { ideal: 1280 }, height: { ideal: 720 } };

// Why there is no camera: the key of its sentence, or null where none is known.
const REASONS = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "none",
  OverconstrainedError: "none",
  NotReadableError: "busy",
  AbortError: "busy",
};

export function sayWhy(error, texts) {
  return Object.hasOwn(REASONS, error.name) ? texts[REASONS[error.name]] : texts.failed(error.message);
}

// What to ask for to get another camera than the one of these settings: the one that looks the other way, or the next
// of the list where they look no known way, as with those of computers.
export function otherCamera({ facingMode, deviceId }, cameras) {
  if (facingMode) return { facingMode: { ideal: facingMode === "environment" ? "user" : "environment" } };
  const next = (cameras.findIndex((camera) => camera.deviceId === deviceId) + 1) % cameras.length;
  return { deviceId: { exact: cameras[next].deviceId } };
}

const switchOff = (stream) => stream?.getTracks().forEach((track) => track.stop());

// The camera in `container`, from `start` to `close`. `tell` says what goes on; `leave(sentence, { error })` is called
// when the camera is of no use any more; `keep(frame, name)` gets the frame that the visitor keeps.
export function openCamera(container, model, { tell, leave, keep }) {
  const texts = model.texts.live;
  const video = make("video", { muted: true, playsInline: true });
  const closed = new AbortController();
  let [stream, settings, view] = [null, {}, null];
  const keeping = make("button", { type: "button", textContent: texts.keep });
  const turning = make("button", { type: "button", textContent: texts.turn, hidden: true });
  const stopping = make("button", { type: "button", textContent: texts.stop });
  // Cameras of computers look at whoever sits there, and do not say so.
  const mirrored = () => settings.facingMode !== "environment";

  async function start(wish) {
    if (!window.isSecureContext) {
      leave(texts.insecure, { error: true });
      return;
    }
    tell(texts.starting);
    try {
      if (!navigator.mediaDevices) throw new DOMException("", "NotFoundError");
      const opened = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...SIZE, ...wish } });
      if (closed.signal.aborted || document.hidden) {
        switchOff(opened);
        if (!closed.signal.aborted) leave(texts.hidden);
        return;
      }
      stream = opened;
      const [track] = stream.getVideoTracks();
      track.addEventListener("ended", () => leave(texts.ended, { error: true }), { signal: closed.signal });
      settings = track.getSettings();
      video.classList.toggle("mirrored", mirrored());
      video.srcObject = stream;
      view ??= openView(container, video, model, {
        buttons: [keeping, turning, stopping],
        mirrored,
        fail: (error) => leave(texts.failed(error.message), { error: true }),
      });
      await video.play();
      const several = (await listCameras()).length > 1;
      if (closed.signal.aborted) return;
      turning.hidden = !several;
      tell(texts.running);
    } catch (error) {
      if (!closed.signal.aborted) leave(sayWhy(error, texts), { error: true });
    }
    turning.disabled = false;
  }

  // Named only once one of them may be used.
  const listCameras = async () => (
    (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput")
  );

  keeping.addEventListener("click", () => {
    const { frame } = view.takeFrame();
    if (frame) keep(frame, texts.name(new Date().toLocaleTimeString(document.documentElement.lang)));
  });
  turning.addEventListener("click", async () => {
    turning.disabled = true;
    const cameras = await listCameras();
    if (closed.signal.aborted) return;
    switchOff(stream); // telephones open one at a time
    await start(otherCamera(settings, cameras));
  });
  stopping.addEventListener("click", () => leave(""));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && stream) leave(texts.hidden);
  }, { signal: closed.signal });

  return {
    start: () => start({ facingMode: { ideal: "environment" } }),
    close() {
      closed.abort();
      switchOff(stream);
      video.srcObject = null;
      view?.close();
    },
  };
}
