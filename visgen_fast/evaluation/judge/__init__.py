"""People who choose: a page that shows two pictures, a database of votes, and what the votes say."""
