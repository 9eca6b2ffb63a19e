// What the page says, in German.

const objects = (count, text) => (count === 0 ? "keine Objekte" : `${text} ${count === 1 ? "Objekt" : "Objekte"}`);
const classes = (count, text) => `${text} ${count === 1 ? "Klasse" : "Klassen"}`;

export const TEXTS = {
  title: "Was zeigt das Foto?",
  privacy: "Fotos bleiben auf diesem Gerät: Nichts wird gesendet.",
  choose: "Foto auswählen",
  another: "Anderes Foto auswählen",
  drop: "oder hier ablegen oder einfügen",
  samples: "Oder probieren Sie eines von diesen",
  loading: "Das Modell wird geladen …",
  loadingBytes: (loaded, total) => `Das Modell wird geladen: ${loaded} von ${total} MB …`,
  ready: "Bereit.",
  looking: (name) => `${name} …`,
  pasted: "Das eingefügte Bild",
  classified: (name, label, percent) => `${name}: ${label}, ${percent}`,
  detected: (name, count, text) => `${name}: ${objects(count, text)}`,
  segmented: (name, count, text) => `${name}: ${classes(count, text)}`,
  objects,
  ofPicture: (percent) => `${percent} des Bildes`,
  offline: "Offline: Diese Seite arbeitet mit der Kopie auf diesem Gerät.",
  undecodable: (name, _reason) => `${name}: Dieser Browser kann die Datei nicht dekodieren. Versuchen Sie es mit einem JPEG oder PNG.`,
  unreachable: (file) => `${file} kann nicht abgerufen werden. Ist dieses Gerät offline? Laden Sie die Seite neu, sobald es online ist.`,
  refused: (file, status) => `${file}: Der Server antwortet mit ${status}`,
  unsupported: "Dieser Browser ist für diese Seite zu alt: Sie benötigt mindestens Chrome 80, Firefox 114 oder Safari 16.4.",
  failed: (name, reason) => `${name}: ${reason}`,
  tasks: {
    classification: {
      lead: (count, text) => `Erkennt, welche von ${text} ${count === 1 ? "Klasse" : "Klassen"} ein Foto zeigt.`,
      seen: "Das Foto",
      caption: "Die wahrscheinlichsten Klassen",
      label: "Klasse",
      value: "Wahrscheinlichkeit",
      hint: "Das Netz sieht den hellen Teil des Fotos.",
    },
    detection: {
      lead: (count, text) => `Findet in einem Foto Objekte aus ${text} ${count === 1 ? "Klasse" : "Klassen"} und umrahmt sie.`,
      seen: "Das Foto mit den Objekten in Rahmen",
      caption: "Die Objekte",
      label: "Klasse",
      value: "Konfidenz",
      hint: "Wählen Sie ein Objekt, um nur seinen Rahmen zu sehen.",
    },
    segmentation: {
      lead: (count, text) => `Ordnet jedem Pixel eines Fotos eine von ${text} ${count === 1 ? "Klasse" : "Klassen"} zu.`,
      seen: "Das Foto, eingefärbt nach den Klassen seiner Pixel",
      caption: "Die Klassen",
      label: "Klasse",
      value: "Anteil der Pixel",
      hint: "Wählen Sie eine Klasse, um ihre Farbe aus- oder einzublenden.",
    },
  },
  times: (decode, prepare, network, finish) => (
    `Dekodieren ${decode}, Skalieren ${prepare}, Netz ${network}, Abschluss ${finish}`
  ),
  copy: "Als JSON kopieren",
  copied: "Kopiert.",
  notCopied: "Dieser Browser lässt die Seite nicht kopieren.",
  save: "Bild speichern",
  saving: "Das Bild wird gezeichnet …",
  saved: (width, height) => `Gespeichert: ${width} × ${height} Pixel.`,
  notSaved: "Dieser Browser kann das Bild nicht zeichnen.",
  facts: {
    about: "Über das Modell",
    task: "Aufgabe",
    input: "Eingabe",
    accuracy: "Genauigkeit",
    size: "Größe",
    runtime: "Laufzeitumgebung",
    licence: "Lizenz der Gewichte",
    runtimeLicence: "Lizenz der Laufzeitumgebung (Apache-2.0)",
    from: "Herkunft der Gewichte",
    classes: "Klassen",
  },
  taskNames: { classification: "Klassifikation", detection: "Objekterkennung", segmentation: "Semantische Segmentierung" },
  pixels: (side) => `${side} × ${side} Pixel`,
  measured: (top1, low, high, top5, dataset) => (
    `Top-1 ${top1} (95-%-Intervall ${low} bis ${high}), Top-5 ${top5}: ${dataset}`
  ),
  images: (count, text) => `${text} ${count === 1 ? "Bild" : "Bilder"}`,
  filter: "Klassen filtern",
  more: (text) => `und ${text} weitere`,
  selfTest: {
    title: "Selbsttest",
    about: "Rechnet mit den Eingaben, die mit dem Modell exportiert wurden, und vergleicht die Antworten mit den erwarteten.",
    run: "Selbsttest starten",
    running: (done, all) => `${done} von ${all} …`,
    caption: "Der größte Fehler jeder Antwort",
    answer: "Antwort",
    error: "Größter Fehler",
    allowed: "Toleranz",
    result: "Ergebnis",
    pass: "bestanden",
    fail: "nicht bestanden",
    passed: (count, text) => (
      `Bestanden: ${count === 1 ? "Die Antwort auf die Eingabe liegt" : `Die Antworten auf ${text} Eingaben liegen`} innerhalb der Toleranz.`
    ),
    failed: (failed, all) => (
      `Nicht bestanden: Die Antworten auf ${failed} von ${all} Eingaben liegen außerhalb der Toleranz.`
    ),
    otherFile: "Nicht bestanden: Die erwarteten Antworten gehören zu einer anderen Modelldatei. Exportieren Sie die Seite neu.",
  },
};
