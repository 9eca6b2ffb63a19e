// What the page says of the model: its network, accuracy, licences, and its classes, which can be searched.

import { wilsonInterval } from "./numbers.js";
import { element, make } from "./page.js";
import { networkName } from "./record.js";

const MOST = 200; // classes that are listed at once
const LONG = 24; // letters of a fact that takes a line of its own

export function showFacts({ description, bytes }, texts, numbers) {
  const { spec } = description;
  const { facts } = texts;
  const count = spec.labels.length;
  element("model").textContent = networkName(spec);
  const measured = (spec.accuracy ?? []).map(({ top1, top5, pictures, dataset }) => {
    const [low, high] = wilsonInterval(top1, pictures).map(numbers.percent);
    const images = dataset.includes(pictures) ? "" : `, ${texts.images(pictures, numbers.integer(pictures))}`;
    return texts.measured(numbers.percent(top1), low, high, numbers.percent(top5), dataset + images);
  });
  const rows = [
    [facts.task, texts.taskNames[spec.task]],
    [facts.input, texts.pixels(numbers.integer(spec.input_size))],
    [facts.size, `${numbers.decimal(bytes / 1e6)} MB`],
    [facts.runtime, description.runtime],
    ...measured.map((line) => [facts.accuracy, line]),
    [facts.licence, spec.license],
    [facts.from, spec.provenance],
  ].filter(([, text]) => text);
  element("facts-list").replaceChildren(...rows.map(([name, text]) => (
    make("div", { className: text.length > LONG ? "wide" : "" }, make("dt", { textContent: name }), make("dd", { textContent: text }))
  )));
  element("facts-classes").textContent = `${facts.classes} (${numbers.integer(count)})`;
  listClasses(spec.labels, texts, numbers);
  showLicence(texts);
  element("facts").hidden = false;
}

// The classes that have what is searched for in their names, once the list is open.
function listClasses(labels, texts, numbers) {
  const [details, field, list] = ["classes", "filter", "class-list"].map(element);
  field.setAttribute("aria-label", texts.filter);
  field.placeholder = texts.filter;
  field.hidden = labels.length <= 10;
  const show = () => {
    const wanted = field.value.trim().toLocaleLowerCase();
    const found = labels.filter((label) => label.toLocaleLowerCase().includes(wanted));
    list.replaceChildren(...found.slice(0, MOST).map((label) => make("li", { textContent: label })));
    if (found.length > MOST) {
      list.append(make("li", { className: "more", textContent: texts.more(numbers.integer(found.length - MOST)) }));
    }
  };
  field.addEventListener("input", show);
  details.addEventListener("toggle", () => { if (details.open) show(); });
}

// The text of the runtime's licence, fetched by who wants to read it.
function showLicence(texts) {
  const [details, text] = ["licence", "licence-text"].map(element);
  element("licence-title").textContent = texts.facts.runtimeLicence;
  details.addEventListener("toggle", async () => {
    if (!details.open || text.textContent) return;
    try {
      text.textContent = await (await fetch("runtime/LICENSE")).text();
    } catch {
      text.textContent = texts.unreachable("runtime/LICENSE");
    }
  });
}
