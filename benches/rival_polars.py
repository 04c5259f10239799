"""The jobs as a Polars user writes them, with the streaming engine.

POLARS_MAX_THREADS=2 python benches/rival_polars.py words|index|bytes|grep|sort OUTPUT INPUT
"""

import sys

import polars as pl

LETTERS = r"\p{L}+"


def words(path):
    return (
        pl.scan_lines(path)
        .select(word=pl.col("line").str.extract_all(LETTERS).explode(empty_as_null=False))
        .group_by("word")
        .len()
    )


def index(path):
    return (
        pl.scan_lines(path, include_file_paths="path")
        .select(word=pl.col("line").str.extract_all(LETTERS), path="path")
        .explode("word", empty_as_null=False)
        .unique()
        .group_by("word")
        .agg(pl.len(), paths=pl.col("path").sort().str.join(","))
    )


def bytes_per_url(path):
    columns = ["host", "ident", "user", "day", "zone", "request", "status", "size"]
    types = dict.fromkeys(columns, pl.String) | {"size": pl.Int64}
    lines = pl.scan_csv(path, has_header=False, separator=" ", null_values="-", schema=types)
    url = pl.col("request").str.split(" ").list.get(1)
    return lines.group_by(url=url).agg(pl.col("size").sum())


def grep(path):
    return pl.scan_lines(path).filter(pl.col("line").str.contains(r"POST .* 5\d\d"))


def sort(path):
    return pl.scan_lines(path).sort("line")


JOBS = {"words": words, "index": index, "bytes": bytes_per_url, "grep": grep, "sort": sort}


def main(job, output, path):
    frame = JOBS[job](path)
    frame.sink_csv(output, include_header=False, separator=" ", quote_style="never", engine="streaming")


if __name__ == "__main__":
    main(*sys.argv[1:])
