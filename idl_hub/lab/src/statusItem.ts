/** The status bar's item: my GPU at a glance. A click opens the panel. */

import { type Popup, showPopup } from '@jupyterlab/statusbar';
import { Widget } from '@lumino/widgets';
import { element, say } from './dom';
import { Panel, type PanelActions } from './panel';
import type { Answer } from './server';
import { countdown, nameOf, statusParts } from './words';

export class StatusItem extends Widget {
  private readonly button = element('button', 'idl-Status-button');
  private readonly urgent = element('span', 'idl-Status-urgent');
  private readonly words = element('span', '', 'GPU …');
  private answer: Answer | null = null;
  private popup: Popup | null = null;
  private panel: Panel | null = null;

  constructor(
    private readonly now: () => number,
    private readonly actions: PanelActions,
    private readonly opened: (open: boolean) => void
  ) {
    super();
    this.addClass('idl-Status');
    this.addClass('jp-mod-highlighted');
    this.button.type = 'button';
    this.button.setAttribute('aria-haspopup', 'dialog');
    this.button.setAttribute('aria-expanded', 'false');
    this.button.append(this.urgent, this.words);
    this.button.addEventListener('click', () => this.toggle());
    this.node.append(this.button);
  }

  showAnswer(answer: Answer): void {
    this.answer = answer;
    this.node.dataset['tone'] = answer.lost ? 'error' : answer.notice ? 'warning' : '';
    const first = answer.gpus[0];
    this.button.title = answer.has_gpu && first ? `${nameOf(first, answer.server)}: click for details` : 'My GPU';
    this.tick();
    this.panel?.refresh(answer, this.now());
    this.popup?.update();
  }

  /** The server does not answer: what was known may not be so any more. */
  silent(words: string): void {
    this.answer = null;
    say(this.urgent, '');
    say(this.words, words);
  }

  tick(): void {
    if (!this.answer) {
      return;
    }
    const deadline = this.answer.notice?.deadline;
    say(this.urgent, deadline === undefined ? '' : `stops in ${countdown(deadline - this.now())}`);
    say(this.words, statusParts(this.answer, this.now()).join(' · '));
  }

  private toggle(): void {
    if (this.popup && !this.popup.isDisposed) {
      this.popup.dispose();
      return;
    }
    const panel = (this.panel = new Panel(this.actions));
    if (this.answer) {
      panel.refresh(this.answer, this.now());
    }
    this.popup = showPopup({ body: panel, anchor: this, align: 'left', hasDynamicSize: true });
    this.popup.disposed.connect(() => this.closed());
    panel.node.focus();
    this.button.setAttribute('aria-expanded', 'true');
    this.opened(true);
  }

  private closed(): void {
    this.panel = null;
    this.popup = null;
    this.button.setAttribute('aria-expanded', 'false');
    this.button.focus();
    this.opened(false);
  }
}
