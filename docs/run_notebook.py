"""Execute first_steps.ipynb on this machine and keep its output: `make notebook`."""

import pathlib

import nbformat
from nbclient import NotebookClient

NOTEBOOK = pathlib.Path(__file__).with_name("first_steps.ipynb")
CELL_HOURS = 6  # the most a cell may take; training takes minutes on an idle machine


def main() -> None:
    """Execute the cells in order; an error in one leaves the file as it is."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_HOURS * 3600,
        resources={"metadata": {"path": NOTEBOOK.parent}},
        coalesce_streams=True,
        record_timing=False,
    ).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":  # shell commands write as to a terminal
                output.text = output.text.replace("\r\n", "\n")
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
