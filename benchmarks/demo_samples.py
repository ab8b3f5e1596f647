"""What the shipped model says to twenty fixed prompts, unpicked, as the model card shows it.

python -m benchmarks.demo_samples            prints the section in Markdown
"""

import subprocess
import sys

PROMPTS = (
    "Write a short story about a kind giraffe.",
    "Write a story for children about a brave little frog.",
    "Tell me a story about two friends and a lost key.",
    "Write a short poem about rain.",
    "Write a letter to a friend about your summer.",
    "Explain what a river is.",
    "Explain what a lighthouse is.",
    "What is a library?",
    "How do I make a cup of tea?",
    "How do I plant a tree?",
    "Give me three tips for a good night's sleep.",
    "Hello! How are you?",
    "What is your favorite animal?",
    "Write a dialogue between a teacher and a student.",
    "What is 12 plus 30?",
    "Repeat these words: apple river stone",
    "Write these words in reverse order: sun moon star",
    "Sort these from smallest to largest: 42, 7, 19",
    "Anna has the key. Ben has the lamp. Clara has the kite. What does Ben have?",
    "Write as JSON with the keys name, age and has: Max is 12 and has a drum.",
)
SEED = "1"
MOST_TOKENS = "160"


def sample(prompt: str) -> str:
    """The answer of `chimera-run` with its default settings."""
    command = [sys.executable, "-m", "runtime.cli.run", prompt, "--seed", SEED, "-n", MOST_TOKENS]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Print all samples."""
    for prompt in PROMPTS:
        quoted = "\n".join(f"> {line}".rstrip() for line in sample(prompt).splitlines())
        print(f"**{prompt}**\n\n{quoted}\n")


if __name__ == "__main__":
    main()
