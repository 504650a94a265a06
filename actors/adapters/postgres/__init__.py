"""PostgreSQL: tables, migrations, the turns' store."""
