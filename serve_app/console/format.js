// Numbers, sizes, times and states in words.

const WHOLE = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const SECONDS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

export const WORDS = {
  validating: "validating", in_progress: "running", finalizing: "finalizing", completed: "completed",
  failed: "failed", expired: "expired", cancelling: "cancelling", cancelled: "cancelled", paused: "paused",
};
export const ACTIVE = new Set(["validating", "in_progress", "finalizing", "cancelling"]);

export const count = (number) => (number === null || number === undefined ? "–" : WHOLE.format(Math.round(number)));

export function rate(number) {
  if (number === null || number === undefined) return "–";
  return number > 0 && number < 10 ? number.toFixed(1) : count(number);
}

export const percent = (share) => `${share > 0 && share < 1 ? Math.min(99.9, 100 * share).toFixed(1) : Math.round(100 * (share || 0))} %`;

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (number >= 1024 && place < units.length - 1) { number /= 1024; place += 1; }
  return `${place === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[place]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.round((minutes % 1440) / 60)} h`;
}

export function latency(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

// Seconds since the epoch, as the clock of today or with its day.
export function moment(at, withSeconds = false) {
  if (!at) return "–";
  const date = new Date(at * 1000);
  const clock = (withSeconds ? SECONDS : CLOCK).format(date);
  return date.toDateString() === new Date().toDateString() ? clock : `${DAY.format(date)}, ${clock}`;
}

export const stateOf = (batch) => (batch.raybatch.paused ? "paused" : batch.status);

export const shortId = (id) => (id.length > 18 ? `${id.slice(0, 14)}…` : id);

export function nameOf(batch) {
  return (batch.metadata && (batch.metadata.name || batch.metadata.title)) || shortId(batch.id);
}

export function doneShare(batch) {
  const { total, completed, failed } = batch.request_counts;
  return total ? (completed + failed) / total : 0;
}

// What a batch's band says: a median, and the time by which nine of ten end.
export function etaWords(batch) {
  const eta = batch.raybatch.eta;
  if (batch.raybatch.paused) return "paused";
  if (!ACTIVE.has(batch.status)) return "";
  if (!eta) return "not known yet";
  const [likely, late] = [duration(eta.p50_s), duration(eta.p90_s)];
  return likely === late ? `about ${likely}` : `${likely} to ${late}`;
}

export function endedAt(batch) {
  const ends = [batch.completed_at, batch.failed_at, batch.expired_at, batch.cancelled_at].filter(Boolean);
  return ACTIVE.has(batch.status) || !ends.length ? null : Math.max(...ends);
}

export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
