"""Questions put to a store: SQL, the scan behind `project()`, spans and effects."""
