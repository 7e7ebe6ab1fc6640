import { useStudio } from './context';
import { IconButton } from './IconButton';

export function ToastList() {
  const { toasts } = useStudio();
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.list.value.map(({ id, text, tone, action }) => (
        <div key={id} class={`toast ${tone}`} data-testid="toast">
          <p>{text}</p>
          {action && (
            <button
              type="button"
              class="toast-action"
              data-testid="toast-action"
              onClick={() => {
                action.run();
                toasts.dismiss(id);
              }}
            >
              {action.label}
            </button>
          )}
          <IconButton
            icon="close"
            label="Dismiss"
            testId="toast-dismiss"
            onClick={() => toasts.dismiss(id)}
          />
        </div>
      ))}
    </div>
  );
}
