// What the page says, in Spanish.

const objects = (count, text) => (count === 0 ? "ningún objeto" : `${text} ${count === 1 ? "objeto" : "objetos"}`);
const classes = (count, text) => `${text} ${count === 1 ? "clase" : "clases"}`;

export const TEXTS = {
  title: "¿Qué muestra la foto?",
  privacy: "Las fotos se quedan en este dispositivo: no se envía nada.",
  choose: "Elegir una foto",
  another: "Elegir otra foto",
  drop: "o suelte o pegue una aquí",
  samples: "O pruebe con una de estas",
  loading: "Cargando el modelo…",
  loadingBytes: (loaded, total) => `Cargando el modelo: ${loaded} de ${total} MB…`,
  ready: "Listo.",
  looking: (name) => `${name}…`,
  pasted: "La imagen pegada",
  classified: (name, label, percent) => `${name}: ${label}, ${percent}`,
  detected: (name, count, text) => `${name}: ${objects(count, text)}`,
  segmented: (name, count, text) => `${name}: ${classes(count, text)}`,
  objects,
  ofPicture: (percent) => `${percent} de la imagen`,
  offline: "Sin conexión: esta página funciona con la copia guardada en este dispositivo.",
  undecodable: (name, _reason) => `${name}: este navegador no puede decodificarlo. Pruebe con un JPEG o un PNG.`,
  unreachable: (file) => `No se puede obtener ${file}. ¿Está este dispositivo sin conexión? Vuelva a cargar la página cuando tenga conexión.`,
  refused: (file, status) => `${file}: el servidor responde ${status}`,
  unsupported: "Este navegador es demasiado antiguo para esta página: necesita Chrome 80, Firefox 114, Safari 16.4 o posterior.",
  failed: (name, reason) => `${name}: ${reason}`,
  tasks: {
    classification: {
      lead: (count, text) => `Indica cuál de ${classes(count, text)} muestra una foto.`,
      seen: "La foto",
      caption: "Las clases más probables",
      label: "Clase",
      value: "Probabilidad",
      hint: "La red ve la parte clara de la foto.",
    },
    detection: {
      lead: (count, text) => `Encuentra en una foto objetos de ${classes(count, text)} y los enmarca.`,
      seen: "La foto con los objetos enmarcados",
      caption: "Los objetos",
      label: "Clase",
      value: "Confianza",
      hint: "Elija un objeto para ver solo su recuadro.",
    },
    segmentation: {
      lead: (count, text) => `Indica a cuál de ${classes(count, text)} pertenece cada píxel de una foto.`,
      seen: "La foto, coloreada según las clases de sus píxeles",
      caption: "Las clases",
      label: "Clase",
      value: "Proporción de píxeles",
      hint: "Elija una clase para ocultar o mostrar su color.",
    },
  },
  times: (decode, prepare, network, finish) => (
    `Decodificación ${decode}, redimensionado ${prepare}, red ${network}, final ${finish}`
  ),
  copy: "Copiar como JSON",
  copied: "Copiado.",
  notCopied: "Este navegador no permite que la página copie.",
  save: "Guardar la imagen",
  saving: "Dibujando la imagen…",
  saved: (width, height) => `Guardada: ${width} × ${height} píxeles.`,
  notSaved: "Este navegador no puede dibujar la imagen.",
  facts: {
    about: "Sobre el modelo",
    task: "Tarea",
    input: "Entrada",
    accuracy: "Exactitud",
    size: "Tamaño",
    runtime: "Entorno de ejecución",
    licence: "Licencia de los pesos",
    runtimeLicence: "Licencia del entorno de ejecución (Apache-2.0)",
    from: "Origen de los pesos",
    classes: "Clases",
  },
  taskNames: { classification: "Clasificación", detection: "Detección de objetos", segmentation: "Segmentación semántica" },
  pixels: (side) => `${side} × ${side} píxeles`,
  measured: (top1, low, high, top5, dataset) => (
    `Top-1 ${top1} (intervalo del 95 %: de ${low} a ${high}), top-5 ${top5}: ${dataset}`
  ),
  images: (count, text) => `${text} ${count === 1 ? "imagen" : "imágenes"}`,
  filter: "Filtrar las clases",
  more: (text) => `y ${text} más`,
  selfTest: {
    title: "Autocomprobación",
    about: "Ejecuta las entradas que se exportaron con el modelo y compara las respuestas con las esperadas.",
    run: "Iniciar la autocomprobación",
    running: (done, all) => `${done} de ${all}…`,
    caption: "El mayor error de cada respuesta",
    answer: "Respuesta",
    error: "Mayor error",
    allowed: "Tolerancia",
    result: "Resultado",
    pass: "superada",
    fail: "no superada",
    passed: (count, text) => (
      `Superada: ${count === 1 ? "la respuesta a la entrada está" : `las respuestas a ${text} entradas están`} dentro de la tolerancia.`
    ),
    failed: (failed, all) => (
      `No superada: las respuestas a ${failed} de ${all} entradas están fuera de la tolerancia.`
    ),
    otherFile: "No superada: las respuestas esperadas son de otro archivo de modelo. Exporte la página de nuevo.",
  },
};
