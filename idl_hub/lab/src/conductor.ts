/** Brings together what is known, what is shown and what is done. */

import { Banners } from './banners';
import type { Documents, Saved } from './documents';
import { type Doing, HOME_FULL, LAST_SECONDS, type Notice, noticesOf, savedWords, stoppedNotice } from './notices';
import type { Answer, Holder, HubNotice, Item, Server } from './server';
import { StatusItem } from './statusItem';
import { type News, Watch } from './watch';

/** What the application does for it. */
export interface Application {
  /** Leave for the hub's home page, where servers are stopped and started. */
  openHub: () => void;
  confirmShutDown: (holder: Holder) => Promise<boolean>;
  confirmDelete: (item: Item) => Promise<boolean>;
  tell: (words: string, done: boolean) => void;
}

const TICK_MS = 1000;
const SAVE_AGAIN_MS = 15_000;

export class Conductor {
  readonly banners: Banners;
  readonly statusItem: StatusItem;
  private readonly watch: Watch;
  private notices: Notice[] = [];
  private readonly hidden = new Set<string>();
  private readonly savedFor = new Set<string>();
  private saved: Saved | null = null;
  private lastHubNotice: HubNotice | null = null;
  private kills = 0;

  constructor(
    private readonly server: Server,
    private readonly documents: Documents,
    private readonly application: Application
  ) {
    this.watch = new Watch(server);
    const now = () => this.watch.now();
    this.banners = new Banners(
      now,
      (doing, notice) => void this.do(doing, notice),
      item => void this.delete(item)
    );
    this.statusItem = new StatusItem(
      now,
      { shutDown: holder => void this.shutDown(holder), extend: () => void this.ask('extend') },
      open => this.watch.lookClosely(open)
    );
    this.watch.changed.connect((_, news) => this.hear(news));
    window.setInterval(() => this.tick(), TICK_MS); // for as long as the page is there
  }

  /** A kernel was started anew: it may have been killed. */
  kernelRestarted(): void {
    void this.watch.refresh();
  }

  private hear(news: News): void {
    if (news.kind === 'answer') {
      this.hearAnswer(news.answer);
    } else if (news.kind === 'stopped') {
      this.notices = [stoppedNotice(this.lastHubNotice, this.watch.now())];
      this.statusItem.silent('server stopped');
    } else {
      this.statusItem.silent('GPU: server not reachable');
    }
    this.show();
  }

  private hearAnswer(answer: Answer): void {
    this.lastHubNotice = answer.notice;
    this.kills = answer.killed?.kills ?? 0;
    this.notices = noticesOf(answer);
    this.statusItem.showAnswer(answer);
    this.forgetWhatIsOver();
    for (const notice of this.notices) {
      if (notice.id !== HOME_FULL && !this.savedFor.has(notice.id)) {
        this.savedFor.add(notice.id);
        void this.save();
      }
    }
  }

  /** The next notice of the same kind is a new one. */
  private forgetWhatIsOver(): void {
    for (const ids of [this.hidden, this.savedFor]) {
      for (const id of ids) {
        if (!this.notices.some(notice => notice.id === id)) {
          ids.delete(id);
        }
      }
    }
  }

  private show(): void {
    const shown = this.notices.filter(notice => !this.hidden.has(notice.id));
    this.banners.showAll(shown, savedWords(this.saved));
  }

  private tick(): void {
    this.banners.tick();
    this.statusItem.tick();
    const due = this.notices.find(notice => this.isDue(notice));
    if (!due) {
      return;
    }
    if (this.hidden.delete(due.id)) {
      this.show();
    }
    if (!this.saved || Date.now() - this.saved.at >= SAVE_AGAIN_MS) {
      void this.save();
    }
  }

  private isDue(notice: Notice): boolean {
    return notice.deadline !== null && notice.deadline - this.watch.now() <= LAST_SECONDS;
  }

  private async save(): Promise<void> {
    this.saved = await this.documents.save();
    this.show();
  }

  private async do(doing: Doing, notice: Notice): Promise<void> {
    switch (doing) {
      case 'hide':
        this.hidden.add(notice.id);
        this.show();
        break;
      case 'note':
        this.hidden.add(notice.id);
        this.show();
        await this.server.noteKills(this.kills).catch(() => undefined); // it is said again after a reload then
        break;
      case 'keep':
      case 'extend':
        await this.ask(doing);
        break;
      case 'restart':
        await this.save();
        if (!this.saved?.failed.length) {
          this.application.openHub();
        }
        break;
      case 'start':
        this.application.openHub();
        break;
    }
  }

  private async ask(what: 'keep' | 'extend'): Promise<void> {
    try {
      const outcome = await this.server.post(what);
      this.application.tell(outcome.words || (outcome.done ? 'Done.' : 'The hub refused.'), outcome.done);
    } catch {
      this.application.tell('Your server does not answer right now. Try again in a moment.', false);
    }
    await this.watch.refresh();
  }

  private async delete(item: Item): Promise<void> {
    if (!(await this.application.confirmDelete(item))) {
      return;
    }
    try {
      await this.server.delete(item);
      this.application.tell(`${item.path} was deleted.`, true);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.application.tell(`${item.path} could not be deleted: ${why}`, false);
    }
    await this.watch.refresh();
  }

  private async shutDown(holder: Holder): Promise<void> {
    if (holder.kernel_id === null || !(await this.application.confirmShutDown(holder))) {
      return;
    }
    try {
      await this.server.shutDownKernel(holder.kernel_id);
      this.application.tell(`The kernel of ${holder.name} was shut down.`, true);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.application.tell(`The kernel of ${holder.name} could not be shut down: ${why}`, false);
    }
    await this.watch.refresh();
  }
}
