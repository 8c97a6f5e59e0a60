"""What people read: tables, pictures, charts and pages. It draws, it does not judge."""
