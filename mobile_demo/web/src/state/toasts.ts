import { signal } from '@preact/signals';

/** Milliseconds that a message stays. One with an action stays longer, a warning until it is dismissed. */
const STAYS = 5000;
const STAYS_WITH_ACTION = 9000;

export interface Toast {
  id: number;
  text: string;
  tone: 'plain' | 'warning';
  action?: { label: string; run(): void };
}

/** Short messages, the newest last, at most three at a time. */
export class Toasts {
  readonly list = signal<readonly Toast[]>([]);
  #next = 1;

  say(text: string, action?: Toast['action']): void {
    const id = this.#push({ text, tone: 'plain', ...(action && { action }) });
    setTimeout(() => this.dismiss(id), action ? STAYS_WITH_ACTION : STAYS);
  }

  /** The same warning is not shown twice at a time. */
  warn(text: string): void {
    if (!this.list.value.some((toast) => toast.text === text)) this.#push({ text, tone: 'warning' });
  }

  dismiss(id: number): void {
    this.list.value = this.list.value.filter((toast) => toast.id !== id);
  }

  #push(toast: Omit<Toast, 'id'>): number {
    const id = this.#next++;
    this.list.value = [...this.list.value, { ...toast, id }].slice(-3);
    return id;
  }
}
