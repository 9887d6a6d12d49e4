"""``lorrainemail completion``: a script that completes commands and options in bash, zsh or fish.

Made from the parsers themselves (:mod:`lorrainemail.cli.grammar`), so it knows every word that they know.
"""

from __future__ import annotations

import argparse
from typing import Any

from lorrainemail.cli.grammar import Word, all_words


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "completion",
        help="a script that completes commands and options in a shell",
        description="Print a script that completes commands and options. For bash: "
        "lorrainemail completion bash > /etc/bash_completion.d/lorrainemail",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")
    parser.set_defaults(run=run_completion)


def run_completion(arguments: argparse.Namespace) -> int:
    made = {"bash": bash, "zsh": zsh, "fish": fish}[arguments.shell]
    print(made(all_words()), end="")
    return 0


def _table(words: list[Word]) -> str:
    """A shell function's case: the words so far → what may follow."""
    lines = []
    for word in words:
        follow = [*word.below, *(name for option in word.options for name in option.names)]
        lines.append(f'        "{" ".join(word.path)}") words="{" ".join(follow)}" ;;')
    return "\n".join(lines)


_BODY = """    local words="" path="" word
    for word in "${{given[@]}}"; do
        case "$word" in
            -*) ;;
            *) case " {paths} " in *" ${{path:+$path/}}$word "*) path="${{path:+$path/}}$word" ;; esac ;;
        esac
    done
    case "${{path//\\// }}" in
{table}
    esac
"""


def _body(words: list[Word]) -> str:
    paths = " ".join("/".join(word.path) for word in words if word.path)
    return _BODY.format(paths=paths, table=_table(words))


def bash(words: list[Word]) -> str:
    """For bash; files complete where no word fits."""
    return (
        "# bash completion of lorrainemail; made by: lorrainemail completion bash\n"
        "_lorrainemail() {\n"
        '    local current="${COMP_WORDS[COMP_CWORD]}"\n'
        '    local given=("${COMP_WORDS[@]:1:COMP_CWORD-1}")\n'
        f"{_body(words)}"
        '    COMPREPLY=($(compgen -W "$words --config --state --help" -- "$current"))\n'
        "}\n"
        "complete -o default -F _lorrainemail lorrainemail\n"
    )


def zsh(words: list[Word]) -> str:
    """For zsh."""
    return (
        "#compdef lorrainemail\n"
        "# zsh completion of lorrainemail; made by: lorrainemail completion zsh\n"
        "_lorrainemail() {\n"
        "    local -a given\n"
        '    given=("${(@)words[2,CURRENT-1]}")\n'
        f"{_body(words).replace('local words=', 'local follow=').replace(') words=', ') follow=')}"
        "    compadd -- ${=follow} --config --state --help || _files\n"
        "}\n"
        'compdef _lorrainemail lorrainemail 2>/dev/null || _lorrainemail "$@"\n'
    )


def fish(words: list[Word]) -> str:
    """For fish."""
    lines = ["# fish completion of lorrainemail; made by: lorrainemail completion fish"]
    lines += [f"complete -c lorrainemail -l {name} -r" for name in ("config", "state")]
    for word in words:
        when = " ; and ".join(f"__fish_seen_subcommand_from {one}" for one in word.path)
        if word.below:
            seen = f" ; and not __fish_seen_subcommand_from {' '.join(word.below)}"
            condition = f"{when}{seen}" if when else f"not __fish_seen_subcommand_from {' '.join(word.below)}"
            for name, line in word.below.items():
                lines.append(
                    f"complete -c lorrainemail -f -n {_quoted(condition)} -a {name} -d {_quoted(line)}"
                )
        for option in word.options:
            long = [name[2:] for name in option.names if name.startswith("--")]
            if long:
                needs = " -r" if option.metavar else ""
                only = f" -n {_quoted(when)}" if when else ""
                lines.append(f"complete -c lorrainemail{only} -l {long[0]}{needs} -d {_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
