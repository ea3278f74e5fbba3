/** Keeps asking how the GPU is, as often as somebody may want to know. */

import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';
import { type Answer, type Server, StoppedError } from './server';

/** What is known now: an answer, that the server was stopped, or that nothing answers. */
export type News = { kind: 'answer'; answer: Answer } | { kind: 'stopped' } | { kind: 'silent' };

const EVERY_MS = 15_000;
const CLOSELY_EVERY_MS = 5_000;
const LONGEST_WAIT_MS = 60_000;

export class Watch {
  readonly changed = new Signal<this, News>(this);
  private readonly poll: Poll;
  private details = false;
  private latest: Answer | null = null;
  private aheadSeconds = 0;

  constructor(private readonly server: Server) {
    this.poll = new Poll({
      name: 'idl-hub:watch',
      auto: true,
      frequency: { interval: EVERY_MS, backoff: 1.5, max: LONGEST_WAIT_MS },
      // Nobody looks at a hidden page. One with a GPU goes on, to save what is open before its server is stopped;
      // without one the hub should be able to see that the session is not used.
      standby: () => document.hidden && this.latest !== null && !this.latest.has_gpu && !this.latest.notice,
      factory: () => this.look()
    });
  }

  /** Seconds since 1970 by the server's clock. */
  now(): number {
    return Date.now() / 1000 + this.aheadSeconds;
  }

  /** Ask now. */
  refresh(): Promise<void> {
    return this.poll.refresh();
  }

  /** Ask more often, and for who holds the GPU's memory. */
  lookClosely(details: boolean): void {
    this.details = details;
    this.keepPace();
    void this.refresh();
  }

  private async look(): Promise<void> {
    const details = this.details;
    try {
      const answer = await this.server.me(details);
      this.latest = answer;
      this.aheadSeconds = answer.now - Date.now() / 1000;
      this.keepPace();
      this.changed.emit({ kind: 'answer', answer });
    } catch (error) {
      this.changed.emit({ kind: error instanceof StoppedError ? 'stopped' : 'silent' });
      throw error; // the poll waits longer before the next question
    }
  }

  private keepPace(): void {
    const interval = this.details || this.latest?.notice ? CLOSELY_EVERY_MS : EVERY_MS;
    if (this.poll.frequency.interval !== interval) {
      this.poll.frequency = { ...this.poll.frequency, interval };
    }
  }
}
