// What the page says of the model: its network, accuracy, licences, and its classes, which can be searched.

import { wilsonInterval } from "./numbers.js";
import { element, make } from "./page.js";
import { networkName } from "./record.js";

const MOST = 200; // classes that are listed at once

export function showFacts({ description, bytes }, texts, numbers) {
  const { spec } = description;
  const { facts } = texts;
  const count = spec.labels.length;
  element("model").textContent = networkName(spec);
  const measured = (spec.accuracy ?? []).map(({ top1, top5, pictures, dataset }) => {
    const [low, high] = wilsonInterval(top1, pictures).map(numbers.percent);
    const images = numbers.integer(pictures);
    return texts.measured(numbers.percent(top1), low, high, numbers.percent(top5), images, dataset);
  });
  const licence = make("a", { href: "runtime/LICENSE", textContent: "Apache-2.0" });
  const rows = [
    [facts.task, texts.taskNames[spec.task]],
    [facts.network, networkName(spec)],
    [facts.input, texts.pixels(numbers.integer(spec.input_size))],
    [facts.size, `${numbers.decimal(bytes / 1e6)} MB`],
    ...measured.map((line) => [facts.accuracy, line]),
    [facts.licence, spec.license],
    [facts.from, spec.provenance],
    [facts.runtime, `${description.runtime} (`, licence, ")"],
  ].filter(([, first]) => first);
  element("facts-list").replaceChildren(...rows.map(([name, ...inside]) => (
    make("div", {}, make("dt", { textContent: name }), make("dd", {}, ...inside))
  )));
  element("facts-classes").textContent = `${facts.classes} (${numbers.integer(count)})`;
  listClasses(spec.labels, texts, numbers);
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
