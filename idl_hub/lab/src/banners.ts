/** Shows notices over the page, with a countdown. Toasts would not do: "do not disturb" switches them off. */

import { Widget } from '@lumino/widgets';
import { button, element, say } from './dom';
import type { Doing, Notice } from './notices';
import { countdown } from './words';

export class Banners extends Widget {
  private readonly shown = new Map<string, Banner>();

  constructor(
    private readonly now: () => number,
    private readonly does: (doing: Doing, notice: Notice) => void
  ) {
    super();
    this.id = 'idl-hub-notices';
    this.addClass('idl-Notices');
    this.addClass('jp-ThemedContainer');
  }

  /** Show exactly these; what is shown already stays where it is, with the focus in it. */
  showAll(notices: Notice[], saved: string): void {
    for (const [id, banner] of this.shown) {
      if (!notices.some(notice => notice.id === id)) {
        banner.node.remove();
        this.shown.delete(id);
      }
    }
    for (const notice of notices) {
      let banner = this.shown.get(notice.id);
      if (!banner) {
        banner = new Banner(notice.id, this.does);
        this.shown.set(notice.id, banner);
        this.node.append(banner.node);
      }
      banner.update(notice, saved);
    }
    this.tick();
  }

  /** Move the countdowns on. */
  tick(): void {
    for (const banner of this.shown.values()) {
      banner.tick(this.now());
    }
  }
}

class Banner {
  readonly node = element('section', 'idl-Notice');
  private readonly title = element('h2');
  private readonly timer = element('span', 'idl-Notice-timer');
  private readonly text = element('p');
  private readonly saved = element('p', 'idl-Notice-saved');
  private readonly actions = element('div', 'idl-Notice-actions');
  private notice: Notice | null = null;
  private labels = '';

  constructor(
    id: string,
    private readonly does: (doing: Doing, notice: Notice) => void
  ) {
    this.title.id = `idl-hub-notice-${id.replace(/\W/g, '-')}`;
    this.node.setAttribute('aria-labelledby', this.title.id);
    // Read out once; the countdown, which changes every second, is not.
    const words = element('div');
    words.setAttribute('role', 'alert');
    words.append(this.title, this.text);
    this.timer.setAttribute('role', 'timer');
    this.node.append(this.timer, words, this.saved, this.actions);
  }

  update(notice: Notice, saved: string): void {
    this.notice = notice;
    this.node.dataset['tone'] = notice.tone;
    say(this.title, notice.title);
    say(this.text, notice.text);
    say(this.saved, saved);
    this.saved.hidden = !saved;
    const labels = notice.actions.map(action => action.label).join('|');
    if (labels !== this.labels) {
      this.labels = labels;
      this.actions.replaceChildren(
        ...notice.actions.map(action =>
          button(action.label, action.primary, () => this.notice && this.does(action.doing, this.notice))
        )
      );
    }
  }

  tick(now: number): void {
    const deadline = this.notice?.deadline ?? null;
    this.timer.hidden = deadline === null;
    if (deadline !== null) {
      say(this.timer, countdown(deadline - now));
    }
  }
}
