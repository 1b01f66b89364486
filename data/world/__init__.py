"""The miniature world: seeded problems, worked lines, general prompts and a crawl of documents about them.

`family` says what a family of problems is and how worked lines are written; one module holds each family;
`families` lists them; `corpus` writes the crawl; `rewrite` makes summaries and translations; `general` and
`rubric` ask, answer and judge what is not reasoning; `words` lists the token pieces.
"""
