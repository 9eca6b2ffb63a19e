// The page is complete without this: it adds sorting to tables, and a viewer for pictures.
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const sort = (column, down) => {
    const rows = [...body.rows];
    const numbers = rows.some((row) => row.cells[column].dataset.value !== undefined);
    const empty = (row) => row.cells[column].textContent === "";
    rows.sort((a, b) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b); // what has no value stays at the end
      const [x, y] = [key(a, column), key(b, column)];
      const order = numbers ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    const first = head.classList.contains("number"); // of numbers the largest first
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now === "none" ? first : now === "ascending");
    });
  });
}

const shots = [...document.querySelectorAll("a.shot")];
if (shots.length && window.HTMLDialogElement) {
  const made = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const viewer = document.createElement("dialog");
  const image = document.createElement("img");
  const caption = made("p", "");
  const bar = document.createElement("div");
  bar.className = "bar";
  const [previous, next, close] = ["Previous", "Next", "Close"].map((text) => made("button", text));
  bar.append(caption, previous, next, close);
  viewer.append(image, bar);
  document.body.append(viewer);
  let place = 0;
  const show = (to) => {
    place = (to + shots.length) % shots.length;
    const from = shots[place].querySelector("img");
    image.src = from.src;
    image.alt = from.alt;
    const told = shots[place].closest("figure").querySelectorAll("figcaption p");
    const what = shots[place].querySelector(".what");
    caption.textContent = [what, ...told].filter(Boolean).map((part) => part.textContent).join("\n");
    viewer.setAttribute("aria-label", `Image ${place + 1} of ${shots.length}`);
  };
  shots.forEach((shot, i) =>
    shot.addEventListener("click", (event) => {
      event.preventDefault();
      show(i);
      viewer.showModal();
      close.focus();
    }),
  );
  previous.addEventListener("click", () => show(place - 1));
  next.addEventListener("click", () => show(place + 1));
  close.addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(place - 1);
    if (event.key === "ArrowRight") show(place + 1);
  });
  viewer.addEventListener("close", () => shots[place].focus());
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
document.querySelectorAll("details.contents a").forEach((link) =>
  link.addEventListener("click", () => (link.closest("details").open = false)),
);
// A link into what is folded opens it.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target) target.querySelectorAll(":scope > details").forEach((part) => (part.open = true));
  for (let part = target?.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
};
addEventListener("hashchange", unfold);
unfold();
