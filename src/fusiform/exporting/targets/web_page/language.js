// The language of the page: the visitor's first one that there is, or the one that the address asks for.

import { TEXTS as english } from "./texts/en.js";

// Only the one that is shown is fetched.
const OTHERS = {
  de: () => import("./texts/de.js"),
  es: () => import("./texts/es.js"),
  ko: () => import("./texts/ko.js"),
  zh: () => import("./texts/zh.js"),
};
const TAGS = { zh: "zh-Hans" }; // of the script that it is written in

// The code of a language out of a list of tags such as "de-CH", of which undefined ones are passed over.
export function chooseLanguage(tags) {
  for (const tag of tags) {
    const code = tag?.toLowerCase().split(/[-_]/)[0];
    if (code === "en" || Object.hasOwn(OTHERS, code)) return code;
  }
  return "en";
}

// The texts of a language, and its tag for the `lang` attribute and for numbers; English where they cannot be fetched.
export async function loadTexts(code) {
  if (code === "en") return { texts: english, tag: "en" };
  try {
    return { texts: (await OTHERS[code]()).TEXTS, tag: TAGS[code] ?? code };
  } catch {
    return { texts: english, tag: "en" };
  }
}
