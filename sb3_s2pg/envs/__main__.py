"""Print every registered task, with what is hidden from the policy and what only the critic sees."""

from sb3_s2pg.envs.registration import Task, list_tasks

if __name__ == "__main__":
    rows = [Task("task", "hidden", "privileged"), *list_tasks()]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
