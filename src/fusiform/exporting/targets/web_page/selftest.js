// The self-test: the inputs of the folder's golden answers through the network in this very browser.

import { runGolden } from "./golden.js";
import { element, make, put } from "./page.js";

// Offers it where the export has put golden answers into the folder.
export function offerSelfTest({ ask, description }, texts, numbers) {
  const { golden, model, sha256 } = description;
  if (!golden) return;
  const words = texts.selfTest;
  put({ "test-title": words.title, "test-about": words.about, "test-run": words.run, "test-caption": words.caption });
  put({ "test-answer": words.answer, "test-error": words.error, "test-allowed": words.allowed });
  put({ "test-result": words.result });
  element("test").hidden = false;
  const say = (text, kind = "") => {
    element("test-said").textContent = text;
    element("test-said").className = kind;
  };
  const fetchBytes = async (path) => {
    const response = await fetch(`${golden}/${path}`);
    if (!response.ok) throw new Error(texts.refused(`${golden}/${path}`, `${response.status}`));
    return response.arrayBuffer();
  };
  const show = ({ answers, failed, count }) => {
    element("test-rows").replaceChildren(...answers.map(({ name, error, allowed, passed }) => make("tr", {},
      make("th", { scope: "row", textContent: name }),
      make("td", { textContent: numbers.digits(error) }),
      make("td", { textContent: numbers.digits(allowed) }),
      make("td", { textContent: passed ? words.pass : words.fail }),
    )));
    element("test-table").hidden = false;
    if (failed) say(words.failed(numbers.integer(failed), numbers.integer(count)), "error");
    else say(words.passed(count, numbers.integer(count)), "passed");
  };
  element("test-run").addEventListener("click", async () => {
    element("test-run").disabled = true;
    element("test-table").hidden = true;
    try {
      const expected = JSON.parse(new TextDecoder().decode(await fetchBytes("golden.json")));
      const file = expected.files.find(({ path }) => path.endsWith(model));
      if (file?.sha256 !== sha256[model]) {
        say(words.otherFile, "error");
        return;
      }
      const run = async (pixels) => Object.values(await ask("run", { pixels }));
      show(await runGolden(expected, fetchBytes, run, (done, all) => {
        say(words.running(numbers.integer(done), numbers.integer(all)));
      }));
    } catch (error) {
      say(error.message, "error");
    } finally {
      element("test-run").disabled = false;
    }
  });
}
