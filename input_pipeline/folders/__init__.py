"""Where the pictures of a category lie: folders listed, layouts recognised, tables read."""
