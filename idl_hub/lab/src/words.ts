/** How numbers are said. Pure functions. */

import type { Answer, Card, Home } from './server';

const MEGABYTE = 2 ** 20;
const GIGABYTE = 2 ** 30; // as cards are sold: the GTX 1080 Ti's 11264 MiB are its 11 GB

/** A time that runs down: "4:32", "1:04:32", never below "0:00". */
export function countdown(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  const two = (value: number) => String(value).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A length of time to read at a glance: "45 s", "12 min", "3 h 20 min". */
export function span(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) {
    return `${whole} s`;
  }
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) {
    return `${minutes} min`;
  }
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 60)} h`;
}

/** Bytes as gigabytes with at most one digit after the point, without the unit: "2.1", "11". */
export function gigabytes(bytes: number): string {
  return (bytes / GIGABYTE).toFixed(1).replace(/\.0$/, '');
}

/** A size on disk: "4.2 GB", "310 MB". */
export function size(bytes: number): string {
  return bytes >= GIGABYTE ? `${(bytes / GIGABYTE).toFixed(1)} GB` : `${Math.round(bytes / MEGABYTE)} MB`;
}

/** "4.2 GB of 5.0 GB free"; without a limit "58.3 GB free". */
export function roomLeft(home: Home): string {
  const limit = home.limit_bytes === null ? '' : ` of ${size(home.limit_bytes)}`;
  return `${size(home.free_bytes)}${limit} free`;
}

/** "26 of 26 GB". */
export function part(bytes: number, ofBytes: number): string {
  return `${gigabytes(bytes)} of ${gigabytes(ofBytes)} GB`;
}

/** The time of day: "17:32". `seconds`: since 1970. */
export function clock(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}

export function percent(ratio: number): string {
  return `${Math.round(ratio * 100)} %`;
}

/** "GPU 3 of gpu05"; a GPU whose number the hub has not told is just "My GPU". */
export function nameOf(card: Card, server: string): string {
  if (card.index === null) {
    return 'My GPU';
  }
  return server ? `GPU ${card.index} of ${server}` : `GPU ${card.index}`;
}

/** Several cards as one: their mean load and their memory together. */
export function together(cards: Card[]): { load: number | null; used: number | null; total: number | null } {
  const known = <T>(values: (T | null)[]): T[] | null =>
    values.length && values.every(value => value !== null) ? (values as T[]) : null;
  const sum = (values: number[] | null) => values && values.reduce((a, b) => a + b, 0);
  const load = sum(known(cards.map(card => card.utilization_ratio)));
  return {
    load: load === null ? null : load / cards.length,
    used: sum(known(cards.map(card => card.memory_used_bytes))),
    total: sum(known(cards.map(card => card.memory_total_bytes)))
  };
}

/** The parts of the status item, the most important first. */
export function statusParts(answer: Answer, now: number): string[] {
  if (!answer.has_gpu) {
    return ['No GPU', ...timeLeft(answer, now), ...scarceRoom(answer), ...hubAway(answer)];
  }
  if (answer.lost) {
    return ['GPU lost', ...scarceRoom(answer), ...hubAway(answer)];
  }
  const { load, used, total } = together(answer.gpus);
  const first = answer.gpus[0];
  const parts = [answer.gpus.length > 1 ? `${answer.gpus.length} GPUs` : first ? shortName(first) : 'GPU'];
  if (load !== null) {
    parts.push(percent(load));
  }
  if (used !== null && total !== null) {
    parts.push(`${gigabytes(used)}/${gigabytes(total)} GB`);
  }
  if (answer.idle_seconds !== null && answer.idle_seconds >= 60) {
    parts.push(`idle ${span(answer.idle_seconds)}`);
  }
  parts.push(...timeLeft(answer, now), ...scarceRoom(answer));
  if (answer.simulated) {
    parts.push('simulated');
  }
  return [...parts, ...hubAway(answer)];
}

function shortName(card: Card): string {
  return card.index === null ? 'GPU' : `GPU ${card.index}`;
}

function scarceRoom(answer: Answer): string[] {
  if (!answer.home || answer.home.state === 'ok') {
    return [];
  }
  return [answer.home.state === 'full' ? 'home full' : `home: ${size(answer.home.free_bytes)} left`];
}

function timeLeft(answer: Answer, now: number): string[] {
  return answer.ends_at === null ? [] : [`${span(answer.ends_at - now)} left`];
}

function hubAway(answer: Answer): string[] {
  return answer.hub.reachable ? [] : ['hub not reachable'];
}
