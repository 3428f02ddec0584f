"""Reports for people: HTML pages of audits, comparisons and deletions, letters, PDF, and plain-text summaries."""
