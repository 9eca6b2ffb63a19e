// Moving pictures: the camera or a video file, one of them at a time, and none while a photograph is looked at.

import { openCamera } from "./live.js";
import { openVideo } from "./video.js";

// `button` starts the camera and stops it. `page` is what the page lends: { ask, spec, texts, percent, decimal, say,
// hide, take }, where `hide()` puts away the photograph's answer and `take(frame, name)` answers a frame as a photograph.
// It gives { play, close }: `play(file)` shows a video file.
export function prepareMoving(container, button, page) {
  let current = null;
  function close() {
    const focused = container.contains(document.activeElement);
    const before = current;
    current = null;
    before?.close();
    button.setAttribute("aria-pressed", "false");
    if (focused) button.focus();
  }
  function open(make) {
    close();
    page.hide();
    current = make({
      leave: (sentence, options) => {
        close();
        page.say(sentence, options);
      },
      keep: (frame, name) => {
        close();
        page.take(frame, name);
      },
    });
  }
  button.textContent = page.texts.live.start;
  button.disabled = false;
  button.addEventListener("click", () => {
    const running = button.getAttribute("aria-pressed") === "true";
    if (running) {
      close();
      page.say("");
      return;
    }
    open((session) => openCamera(container, page, session));
    button.setAttribute("aria-pressed", "true");
    current.start();
  });
  return {
    play(file) {
      open((session) => openVideo(container, page, file, session));
      current.start();
    },
    close,
  };
}
