// Numbers as people read them.

const NOTHING = "–";

export function seconds(value) {
  if (value === null || value === undefined) {
    return NOTHING;
  }
  if (Math.abs(value) < 120) {
    return `${value.toFixed(1)} s`;
  }
  const minutes = Math.round(value / 60);
  return Math.abs(minutes) < 120 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour12: false });
}

export function count(value) {
  return value.toLocaleString("en");
}

export function score(value) {
  return value.toFixed(3);
}

export function orNothing(text) {
  return text === null || text === undefined || text === "" ? NOTHING : String(text);
}
