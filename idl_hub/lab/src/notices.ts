/** What a person must see now, and what they can do about it. */

import type { Saved } from './documents';
import type { Answer, Home, HubNotice, Item, Killed } from './server';
import { clock, part, size } from './words';

export type Doing = 'keep' | 'extend' | 'restart' | 'start' | 'hide' | 'note';

export interface Action {
  doing: Doing;
  label: string;
  primary: boolean;
}

export interface Notice {
  /** The same for as long as it is about the same thing. */
  id: string;
  tone: 'warning' | 'error';
  title: string;
  text: string;
  /** Seconds since 1970 by the server's clock. */
  deadline: number | null;
  actions: Action[];
  /** What can be deleted. */
  items?: Item[];
}

/** Saving is what does not work then: nothing is saved because of this notice. */
export const HOME_FULL = 'home-full';

/** From here on documents are saved again and again, and a hidden notice comes back. */
export const LAST_SECONDS = 60;
const SOON_SECONDS = 600;
const TITLES: Record<string, string> = {
  idle: 'Your idle GPU is about to go to somebody else',
  ending: 'Your session is being ended'
};

const HIDE: Action = { doing: 'hide', label: 'Hide', primary: false };
const NOTE: Action = { doing: 'note', label: 'Hide', primary: false };
const RESTART: Action = { doing: 'restart', label: 'Save and restart my server', primary: true };
const START: Action = { doing: 'start', label: 'Start my server again', primary: true };

/** Return what an answer gives reason to say. */
export function noticesOf(answer: Answer): Notice[] {
  const notices: Notice[] = [];
  if (answer.lost) {
    notices.push({
      id: 'lost',
      tone: 'error',
      title: 'This server lost its GPU',
      text:
        `The GPU cannot be used any more: ${answer.lost}. Your files are safe. ` +
        'A restart of the server brings a working GPU; kernels end with it, so what they hold in memory is lost.',
      deadline: null,
      actions: [RESTART, HIDE]
    });
  }
  if (answer.killed) {
    notices.push(ofKilled(answer.killed));
  }
  if (answer.home?.state === 'full') {
    notices.push(ofFullHome(answer.home));
  }
  if (answer.notice) {
    notices.push(ofHub(answer.notice, answer.can_extend, answer.now));
  }
  return notices;
}

function ofFullHome(home: Home): Notice {
  const known = home.used_bytes !== null && home.limit_bytes !== null && home.used_bytes >= home.limit_bytes / 2;
  const title =
    known && home.used_bytes !== null && home.limit_bytes !== null
      ? `Your home is full: ${size(home.used_bytes)} of ${size(home.limit_bytes)}`
      : `Your home is full: its disk has ${size(home.free_bytes)} left`;
  const largest = home.largest?.length ? ' These take most of the space:' : '';
  return {
    id: HOME_FULL,
    tone: 'error',
    title,
    text:
      'There may be no room to save your work. Delete files that you do not need, here, in the file browser or in ' +
      `a terminal.${largest}`,
    deadline: null,
    actions: [HIDE],
    items: home.largest ?? []
  };
}

function ofKilled(killed: Killed): Notice {
  const one = killed.kernels.length <= 1;
  const what = killed.kernels.length
    ? `the ${one ? 'kernel' : 'kernels'} of ${killed.kernels.join(', ')}`
    : 'a program of yours';
  const used = part(killed.most_used_bytes ?? killed.limit_bytes, killed.limit_bytes);
  const why = killed.at_limit
    ? `The session used ${used} of memory, so the system ended ${what}.`
    : `The machine ran out of memory while this session used ${used}, so the system ended ${what}.`;
  const next = killed.at_limit
    ? 'Load less at once (smaller batches, a part of the data), shut down notebooks that you do not need, and empty ' +
      '/tmp, which counts as memory. Then run it again from the top.'
    : 'That was not its doing: run it again. If it happens again, tell the course’s admins.';
  return {
    id: `killed-${killed.kills}`,
    tone: 'error',
    title: `${killed.kernels.length ? 'Your kernel was killed' : 'A program of yours was killed'} at ${clock(killed.at)}: out of memory`,
    text: `${why} What it held in memory is lost; your files are safe. ${next}`,
    deadline: null,
    actions: [NOTE]
  };
}

function ofHub(notice: HubNotice, canExtend: boolean, now: number): Notice {
  const actions: Action[] = [];
  if (notice.can_keep) {
    actions.push({ doing: 'keep', label: 'Keep it', primary: true });
  }
  if (notice.kind === 'length' && canExtend) {
    actions.push({ doing: 'extend', label: 'Extend', primary: true });
  }
  return {
    // Another notice in the last minutes, so that who has hidden the first one reads it again.
    id: notice.kind === 'length' && notice.deadline - now <= SOON_SECONDS ? 'length-soon' : notice.kind,
    tone: 'warning',
    title: TITLES[notice.kind] ?? 'Your session is about to end',
    text: notice.text,
    deadline: notice.deadline,
    actions: [...actions, HIDE]
  };
}

/** Return why the server was stopped, as far as the last notice from the hub tells. */
export function stoppedNotice(last: HubNotice | null, now: number): Notice {
  const due = last !== null && last.deadline - now <= LAST_SECONDS ? last : null;
  const why =
    due?.kind === 'idle'
      ? 'Its GPU was idle while others waited for one, so it went to the next in line.'
      : due?.kind === 'length'
        ? 'The longest time that a session may take was over.'
        : due?.kind === 'ending'
          ? `${due.text}.`
          : 'It was stopped on the hub’s pages, by you or by the people who run the course, or it ended by itself.';
  return {
    id: 'stopped',
    tone: 'error',
    title: 'Your server was stopped',
    text: `${why} Your files are safe. Kernels ended with it: after a new start, run your notebooks again.`,
    deadline: null,
    actions: [START, HIDE]
  };
}

/** Say what was saved; empty while nothing was. */
export function savedWords(saved: Saved | null): string {
  if (!saved) {
    return '';
  }
  const at = new Date(saved.at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  if (saved.failed.length) {
    return `Not saved: ${saved.failed.join(', ')}. Save by hand, or download what matters to you.`;
  }
  return `All documents were saved at ${at}.`;
}
