"""Problems drawn without end."""
