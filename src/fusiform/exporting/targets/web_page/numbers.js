// Numbers as the visitor's language writes them, and the interval of a measured share.

export function makeNumbers(tag) {
  const format = (options) => {
    const made = new Intl.NumberFormat(tag, options);
    return (value) => made.format(value).replaceAll(" ", "\u00a0"); // no unit begins a line
  };
  return {
    percent: format({ style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }),
    share: format({ style: "percent", maximumFractionDigits: 2 }),
    integer: format({ maximumFractionDigits: 0 }),
    decimal: format({ minimumFractionDigits: 1, maximumFractionDigits: 1 }),
    digits: format({ maximumSignificantDigits: 2, notation: "scientific" }),
    milliseconds: format({ style: "unit", unit: "millisecond", maximumFractionDigits: 0 }),
  };
}

// The 95 % score interval of a share of `count`, as tasks/classification_metrics.py has it (Wilson 1927, JASA 22).
export function wilsonInterval(share, count) {
  const z = 1.959963984540054;
  const middle = share + (z * z) / (2 * count);
  const reach = z * Math.sqrt((share * (1 - share)) / count + (z / (2 * count)) ** 2);
  const all = 1 + (z * z) / count;
  return [Math.max(0, (middle - reach) / all), Math.min(1, (middle + reach) / all)];
}
