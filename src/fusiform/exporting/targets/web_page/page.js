// Small tools of the page: its elements, and the line that says what goes on. Text is set as text, so that no label can
// become markup.

export const element = (id) => document.getElementById(id);

// The texts of elements, by their ids.
export function put(texts) {
  for (const [id, text] of Object.entries(texts)) element(id).textContent = text;
}

// A new element with a text or with others inside.
export function make(tag, properties = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...inside);
  return made;
}

// The line that says what goes on, which screen readers read aloud.
export function say(text, { error = false } = {}) {
  element("status").textContent = text;
  element("status").classList.toggle("error", error);
}

// What the page is doing: "loading", "ready", "looking", "answered" or "failed"; "moving" with a camera or a video, and
// "stopped" where there is a word to say of its end. The style goes by it.
export function setState(state) {
  document.body.dataset.state = state;
  element("main").setAttribute("aria-busy", String(state === "loading" || state === "looking"));
}
