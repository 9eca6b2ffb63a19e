// Moving pictures: the camera or a video file, one of them at a time, and none while a photograph is looked at.

import { openCamera } from "./live.js";
import { element, say, setState } from "./page.js";
import { openVideo } from "./video.js";

// Offers the camera. `hide()` puts away the photograph's answer; `take(frame, name)` answers a frame as a photograph. It
// gives { play, close }: `play(file)` shows a video file.
export function prepareMoving(model, { hide, take }) {
  const [container, button] = [element("live"), element("camera")];
  let current = null;

  function tell(sentence, { error = false } = {}) {
    if (error) setState("failed");
    else if (current) setState("moving");
    else setState(sentence ? "stopped" : "ready");
    say(sentence, { error });
  }

  function close() {
    const focused = container.contains(document.activeElement);
    const before = current;
    current = null;
    before?.close();
    button.setAttribute("aria-pressed", "false");
    if (focused) button.focus();
  }

  function leave(sentence, options) {
    close();
    tell(sentence, options);
  }

  function open(make) {
    close();
    hide();
    current = make({
      tell,
      leave,
      keep: (frame, name) => {
        close();
        take(frame, name);
      },
    });
  }

  button.textContent = model.texts.live.start;
  button.hidden = false;
  button.addEventListener("click", () => {
    if (button.getAttribute("aria-pressed") === "true") {
      leave("");
      return;
    }
    open((session) => openCamera(container, model, session));
    button.setAttribute("aria-pressed", "true");
    current.start();
  });
  return {
    play(file) {
      open((session) => openVideo(container, model, file, session));
      current.start();
    },
    close,
  };
}
