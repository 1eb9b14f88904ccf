"""Tables: columns, records, mapped rows, the journal."""
