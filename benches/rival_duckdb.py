"""The jobs as a DuckDB user writes them.

python benches/rival_duckdb.py words|index|bytes|grep|sort OUTPUT THREADS INPUT
"""

import sys

import duckdb

LINES = "read_csv('{path}', columns={{'line': 'VARCHAR'}}, delim='\x01', quote='', escape='', header=false{more})"
WORDS = r"unnest(regexp_extract_all(line, '\pL+'))"
JOBS = {
    "words": f"SELECT word, count(*) FROM (SELECT {WORDS} AS word FROM {LINES}) GROUP BY word",
    "index": f"""
        SELECT word, count(*), string_agg(filename, ',' ORDER BY filename)
        FROM (SELECT DISTINCT {WORDS} AS word, filename FROM {LINES}) GROUP BY word""",
    "bytes": """
        SELECT split_part(request, ' ', 2) AS url, coalesce(sum(size), 0)
        FROM read_csv('{path}', delim=' ', quote='"', header=false, nullstr='-', columns={{'host': 'VARCHAR',
            'ident': 'VARCHAR', 'user': 'VARCHAR', 'day': 'VARCHAR', 'zone': 'VARCHAR', 'request': 'VARCHAR',
            'status': 'VARCHAR', 'size': 'BIGINT'}})
        GROUP BY url""",
    "grep": rf"SELECT line FROM {LINES} WHERE regexp_matches(line, 'POST .* 5\d\d')",
    "sort": f"SELECT line FROM {LINES} ORDER BY line",
}


def main(job, output, threads, path):
    connection = duckdb.connect(config={"threads": int(threads), "preserve_insertion_order": job == "grep"})
    more = ", filename=true" if job == "index" else ""
    query = JOBS[job].format(path=path + "/*" * (job == "index"), more=more)
    connection.execute(f"COPY ({query}) TO '{output}' (FORMAT csv, DELIMITER ' ', HEADER false, QUOTE '', ESCAPE '')")


if __name__ == "__main__":
    main(*sys.argv[1:])
