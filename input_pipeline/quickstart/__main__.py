"""Make the quickstart's pictures: python -m input_pipeline.quickstart --output data/quickstart."""

import argparse

from configs.errors import UserError
from input_pipeline.quickstart.photos import write_photos


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.quickstart",
        description="Make product pictures to try the program with: two categories, and textures.",
    )
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument("--size", type=int, default=128, help="width and height in px, 64..256")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    options = parser.parse_args()
    try:
        made = write_photos(options.output, options.size, options.seed)
    except (UserError, OSError) as error:
        parser.error(str(error))
    print(f"{options.output}: {'written' if made else 'there already, nothing to do'}")


if __name__ == "__main__":
    main()
