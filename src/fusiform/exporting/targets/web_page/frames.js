// How a moving picture is answered: its newest frame, one at a time. Nothing here touches the page.

// A function that asks for `work`, which never runs twice at once: what is asked for meanwhile is done once, when it is
// done, with what is newest then. So nothing queues up, and the last frame of all is answered.
export function oneAtATime(work) {
  let [busy, again] = [false, false];
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) {
        again = false;
        await work();
      }
    } finally {
      busy = false;
    }
  };
}

// How many frames a second are answered: a function that is called with the time in milliseconds whenever one is, and
// gives the rate over the last `span` milliseconds, or over the last two frames where they are further apart; null for
// the first one.
export function rateMeter(span = 2000) {
  const times = [];
  return (now) => {
    times.push(now);
    while (times.length > 2 && now - times[0] > span) times.shift();
    return times.length < 2 ? null : (1000 * (times.length - 1)) / (now - times[0]);
  };
}

// Says what changes, for screen readers: at most once in `pause` milliseconds, then what is true by then.
export function makeAnnouncer(say, pause = 3000) {
  let [said, newest, timer] = [null, null, null];
  const speak = () => {
    timer = null;
    if (newest === said) return;
    said = newest;
    say(said);
    timer = setTimeout(speak, pause);
  };
  return {
    tell(text) {
      newest = text;
      if (timer === null) speak();
    },
    stop: () => clearTimeout(timer),
  };
}

// Boxes and masks as a mirror shows them. Letters are drawn on them later, so that those can be read.
export function mirrorBoxes(boxes, { width }) {
  return boxes.map((box) => ({ ...box, left: width - box.right, right: width - box.left }));
}

export function mirrorMask({ classes, width, height }) {
  const mirrored = classes.slice();
  for (let row = 0; row < height; row++) mirrored.subarray(row * width, (row + 1) * width).reverse();
  return { classes: mirrored, width, height };
}
