/** Questions to this person's own Jupyter server, which asks the hub. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

/** A GPU of this server; null where nobody tells. */
export interface Card {
  uuid: string;
  index: number | null;
  name: string | null;
  utilization_ratio: number | null;
  memory_used_bytes: number | null;
  memory_total_bytes: number | null;
  temperature_celsius: number | null;
}

/** The hub is about to stop this server. `deadline`: seconds since 1970 by the clock of `Answer.now`. */
export interface HubNotice {
  kind: string;
  text: string;
  deadline: number;
  can_keep: boolean;
}

/** Who holds GPU memory; a null `kernel_id` is no kernel and cannot be shut down from here. */
export interface Holder {
  name: string;
  path: string;
  kernel_id: string | null;
  busy: boolean;
  memory_used_bytes: number | null;
}

/** Programs of this server that the system has ended because memory ran out. */
export interface Killed {
  /** How many since the session began. */
  kills: number;
  /** Seconds since 1970 by the clock of `Answer.now`. */
  at: number;
  /** The notebooks whose kernels were among them; empty: other programs. */
  kernels: string[];
  /** False: not the session but the whole machine was out of memory. */
  at_limit: boolean;
  most_used_bytes: number | null;
  limit_bytes: number;
}

/** A file of the home, or a folder of things that nobody misses, with the space it takes. */
export interface Item {
  path: string;
  size_bytes: number;
  is_folder: boolean;
}

/** How much room the home has. */
export interface Home {
  state: 'ok' | 'nearly_full' | 'full';
  /** Null: not counted yet, or nobody limits it. */
  used_bytes: number | null;
  /** Null: only the disk ends. */
  limit_bytes: number | null;
  free_bytes: number;
  /** What takes most space; null while there is room. */
  largest: Item[] | null;
}

/** What `GET idl-hub/me` answers; see idl_hub/lab/status.py. */
export interface Answer {
  now: number;
  has_gpu: boolean;
  simulated: boolean;
  hub: { reachable: boolean; words: string };
  gpus: Card[];
  server: string;
  started_at: number | null;
  idle_seconds: number | null;
  ends_at: number | null;
  can_extend: boolean;
  notice: HubNotice | null;
  lost: string;
  killed: Killed | null;
  home: Home | null;
  holders: Holder[] | null;
}

export interface Outcome {
  done: boolean;
  words: string;
}

/** The hub answers in place of the server: it does not run any more. */
export class StoppedError extends Error {}

/** JupyterHub's status for a request to a server that is not running. */
const NOT_RUNNING = 424;

export class Server {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  async me(details: boolean): Promise<Answer> {
    const response = await this.ask(details ? 'me?details=1' : 'me', { cache: 'no-store' });
    return (await response.json()) as Answer;
  }

  async post(what: 'keep' | 'extend'): Promise<Outcome> {
    const response = await this.ask(what, { method: 'POST', body: '{}' });
    return (await response.json()) as Outcome;
  }

  /** Say that this person knows of so many programs that were ended. */
  async noteKills(kills: number): Promise<void> {
    await this.ask('note-kills', { method: 'POST', body: JSON.stringify({ kills }) });
  }

  async shutDownKernel(kernelId: string): Promise<void> {
    await this.ask('shutdown-kernel', { method: 'POST', body: JSON.stringify({ kernel_id: kernelId }) });
  }

  /** Delete one of the largest of the home, for good. */
  async delete(item: Item): Promise<void> {
    await this.ask('delete', { method: 'POST', body: JSON.stringify({ path: item.path }) });
  }

  private async ask(path: string, init: RequestInit): Promise<Response> {
    const url = URLExt.join(this.settings.baseUrl, 'idl-hub') + '/' + path;
    // With this header the hub answers with a status in place of a page when the server has gone.
    const withHeader = { ...init, headers: { Accept: 'application/json' } };
    const response = await ServerConnection.makeRequest(url, withHeader, this.settings);
    if (response.status === NOT_RUNNING) {
      throw new StoppedError('This server is not running any more.');
    }
    if (!response.ok) {
      throw await ServerConnection.ResponseError.create(response);
    }
    return response;
  }
}
